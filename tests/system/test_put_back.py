"""Zones whose etcd is put back from a backup, and zones of which a copy runs: no id is used twice, all become equal."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.etcd import EtcdServer
from tests.support.proxy import Proxy
from tests.support.zones import BOUND, Pair, Zone, Zones, holds, until

LOST = 5


def markets(zone: Zone, home: Zone) -> dict[int, str]:
    """Return what a zone shows of the markets of another one: id to name."""
    found = (zone.native.market(name) for name in zone.native.market_names())
    return {market.id: market.name for market in found if market.zone_id == home.id}


def create(zone: Zone, what: str) -> set[int]:
    return {zone.native.create_market(f"{what}-{n}").id for n in range(LOST)}


def backup(zone: Zone, *parts: str) -> Path:
    """Stop a zone and copy parts of its directory, as a nightly backup does; start it again."""
    assert zone.terminate() == 0
    kept = zone.directory.with_suffix(".backup")
    for part in parts:
        shutil.copytree(zone.directory / part, kept / part)
    zone.start()
    return kept


def put_back(zone: Zone, kept: Path) -> None:
    """Stop a zone, however, and put back what was copied."""
    zone.kill()
    for part in kept.iterdir():
        shutil.rmtree(zone.directory / part.name)
        shutil.copytree(part, zone.directory / part.name)


def wait_equal(follower: Zone, home: Zone) -> None:
    until(lambda: holds(follower, home), f"{follower.name} holds what {home.name} has", 2 * BOUND)
    assert markets(follower, home) == markets(home, home)


@pytest.fixture
def relayed(zones: Zones) -> Iterator[tuple[Pair, list[Proxy]]]:
    """Berlin and tokyo, which reach each other through relays."""
    berlin, tokyo = zones.make(0, "berlin"), zones.make(100, "tokyo")
    with ExitStack() as stack:
        to_berlin, to_tokyo = (stack.enter_context(Proxy(zone.peer)) for zone in (berlin, tokyo))
        berlin.follow(tokyo.id, to_tokyo.port, tokyo.key)
        tokyo.follow(berlin.id, to_berlin.port, berlin.key)
        pair = Pair(berlin, tokyo)
        pair.start()
        yield pair, [to_berlin, to_tokyo]


def test_yesterdays_etcd_is_noticed_by_the_high_water_mark(zones: Zones) -> None:
    pair = zones.pair()
    berlin, tokyo = pair.berlin, pair.tokyo
    kept_ids = create(berlin, "kept")
    yesterday = backup(berlin, "etcd")
    lost_ids = create(berlin, "lost")
    wait_equal(tokyo, berlin)
    put_back(berlin, yesterday)

    berlin.start()
    new_ids = create(berlin, "new")

    wait_equal(tokyo, berlin)
    assert berlin.native.status().self.head.epoch == 2
    assert not new_ids & (kept_ids | lost_ids)
    assert set(markets(tokyo, berlin)) == kept_ids | new_ids
    listed = tokyo.ask("federation", "lost", "berlin")
    assert {(row["kind"], row["id"]) for row in listed} == {("market", lost) for lost in lost_ids}


def test_a_whole_directory_of_yesterday_is_noticed_by_what_a_peer_holds(zones: Zones) -> None:
    pair = zones.pair()
    berlin, tokyo = pair.berlin, pair.tokyo
    kept_ids = create(berlin, "kept")
    yesterday = backup(berlin, "etcd", "state")
    lost_ids = create(berlin, "lost")
    wait_equal(tokyo, berlin)
    put_back(berlin, yesterday)

    berlin.start()
    new_ids = create(berlin, "new")

    wait_equal(tokyo, berlin)
    assert berlin.native.status().self.head.epoch == 2
    assert not new_ids & (kept_ids | lost_ids)


def test_as_many_new_changes_as_were_lost_while_no_peer_was_heard_end_equal(
    relayed: tuple[Pair, list[Proxy]],
) -> None:
    pair, proxies = relayed
    berlin, tokyo = pair.berlin, pair.tokyo
    create(berlin, "kept")
    yesterday = backup(berlin, "etcd", "state")
    pair.wait_linked()
    create(berlin, "lost")
    wait_equal(tokyo, berlin)
    for proxy in proxies:
        proxy.cut()
    put_back(berlin, yesterday)
    berlin.start()
    create(berlin, "new")

    for proxy in proxies:
        proxy.heal()

    until(lambda: berlin.native.status().self.head.epoch == 2, "a new epoch begins", 2 * BOUND)
    wait_equal(tokyo, berlin)
    assert {name.partition("-")[0] for name in markets(tokyo, berlin).values()} == {"kept", "new"}


def test_an_etcd_that_is_put_back_under_a_running_agent_is_noticed(zones: Zones, tmp_path: Path) -> None:
    etcd = EtcdServer(tmp_path / "external")
    etcd.start()
    try:
        berlin, tokyo = zones.make(0, "berlin"), zones.make(100, "tokyo")
        berlin.set("etcd", embedded=False, endpoints=[etcd.endpoint], client_port=0)
        berlin.follow(tokyo.id, tokyo.peer, tokyo.key)
        tokyo.follow(berlin.id, berlin.peer, berlin.key)
        pair = Pair(berlin, tokyo)
        pair.start()
        kept_ids = create(berlin, "kept")
        etcd.kill()
        shutil.copytree(etcd.data, tmp_path / "yesterday")
        etcd.start()
        until(lambda: berlin.native.create_market("back again").id, "etcd is back")
        lost_ids = create(berlin, "lost")
        wait_equal(tokyo, berlin)
        etcd.kill()
        shutil.rmtree(etcd.data)
        shutil.copytree(tmp_path / "yesterday", etcd.data)
        etcd.start()

        until(lambda: berlin.native.status().self.head.epoch == 2, "a new epoch begins", 2 * BOUND)
        new_ids = create(berlin, "new")

        wait_equal(tokyo, berlin)
        assert not new_ids & (kept_ids | lost_ids)
        assert set(markets(tokyo, berlin)) == kept_ids | new_ids
    finally:
        etcd.stop()


def test_a_copy_of_a_zone_and_the_zone_itself_do_not_use_each_others_ids(zones: Zones) -> None:
    """First one runs, then the other: neither high-water mark knows of what the other did."""
    pair = zones.pair()
    berlin, tokyo = pair.berlin, pair.tokyo
    create(berlin, "kept")
    berlin.terminate()
    original = berlin.directory.with_suffix(".original")
    shutil.copytree(berlin.directory, original)
    berlin.start()
    of_copy = create(berlin, "copy")
    wait_equal(tokyo, berlin)
    berlin.kill()
    shutil.rmtree(berlin.directory)
    shutil.move(original, berlin.directory)

    berlin.start()
    of_original = create(berlin, "original")

    wait_equal(tokyo, berlin)
    assert not of_copy & of_original
    assert berlin.native.status().self.head.epoch == 2
