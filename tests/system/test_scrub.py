"""Bytes that somebody changes in etcd, on whole zones: found, fetched again or alarmed, and counted."""

import asyncio
import json

import grpc
import pytest

from federation.keys import Keyspace
from federation.store import Txn
from fedmarket.pb.etcd import rpc_pb2, rpc_pb2_grpc
from fedmarket.pb.fedmarket.v1 import zone_pb2
from tests.support.native import refused
from tests.support.zones import BOUND, Pair, Zone, Zones, follows, holds, link, until
from zone_agent.config import load
from zone_agent.etcd import open_etcd

CORRUPT, REFUSED, NOT_FOUND = 8, 4, 3


def flip(zone: Zone, key: str) -> bytes:
    """Change the last byte of a record in a zone's etcd, and return what it was."""
    value, _ = zone.dump()[f"/fedmarket/1/{key}"]
    put(zone, key, flipped(value))
    return value


async def flip_stopped(zone: Zone, *keys: str) -> None:
    """Do the same in the etcd of a zone whose agent is stopped."""
    async with open_etcd(load(zone.config), Keyspace("/fedmarket/1/", zone.id)) as etcd:
        for key in keys:
            stored = await etcd.store.get(f"/fedmarket/1/{key}")
            assert stored is not None
            await etcd.store.txn(Txn({}, puts={stored.key: flipped(stored.value)}))


def flipped(value: bytes) -> bytes:
    return value[:-1] + bytes([value[-1] ^ 1])


def put(zone: Zone, key: str, value: bytes) -> None:
    with zone.etcd() as channel:
        request = rpc_pb2.PutRequest(key=f"/fedmarket/1/{key}".encode(), value=value)
        rpc_pb2_grpc.KVStub(channel).Put(request, timeout=BOUND)


def checks(zone: Zone, *of: str) -> dict[tuple[str, str], dict[str, object]]:
    return {(row["zone"], row["catalog"]): row for row in zone.ask("federation", "verify", *of)}


def test_what_was_changed_in_the_copy_of_a_peer_is_fetched_again(pair: Pair) -> None:
    berlin, tokyo = pair.berlin, pair.tokyo
    market = tokyo.native.create_market("flipped")
    pair.wait_equal()
    key = f"zone/0/replica/100/market/{market.id}"
    good = flip(berlin, key)

    done = berlin.cli("federation", "verify", "tokyo")

    assert (done.status, done.err) == (0, "")
    until(lambda: berlin.dump()[f"/fedmarket/1/{key}"][0] == good, "the record is what it was")
    assert holds(berlin, tokyo)
    assert berlin.native.market("flipped").id == market.id
    assert not berlin.native.status().alarms


def test_what_is_as_it_was_signed_is_whole(pair: Pair) -> None:
    found = checks(pair.berlin)

    assert set(found) == {("berlin", "federation"), ("berlin", "private"), ("tokyo", "federation")}
    assert {row["verdict"] for row in found.values()} == {"ok"}
    told = pair.berlin.native.status().scrub
    assert told.scrubs >= 1
    assert told.HasField("last")
    assert len(told.catalogs) == 3


def test_the_copy_of_a_peer_that_is_good_is_not_forgotten(pair: Pair) -> None:
    assert "is a peer" in pair.berlin.fails(REFUSED, "federation", "forget", "tokyo", "--yes")


def test_a_link_that_is_up_is_left_as_it_is(pair: Pair) -> None:
    assert b"is tail" in pair.berlin.cli("federation", "retry", "tokyo").out
    assert "no zone" in pair.berlin.fails(NOT_FOUND, "federation", "retry", "lima")
    assert link(pair.berlin).state == zone_pb2.LINK_STATE_TAIL


def test_lost_records_are_listed_and_shown(pair: Pair) -> None:
    market = pair.tokyo.native.create_market("to-be-lost")
    pair.wait_equal()
    value, _ = pair.berlin.dump()[f"/fedmarket/1/zone/0/replica/100/market/{market.id}"]
    put(pair.berlin, f"zone/0/replica/100/lost/7/market/{market.id}", value)  # as a DIFF to epoch 8 does
    put(pair.berlin, f"zone/0/replica/100/lost/7/gadget/{market.id}", b"\x01\xff")

    gadget, kept = pair.berlin.ask("federation", "lost", "tokyo", "--epoch", "7")
    shown = json.loads(pair.berlin.cli("federation", "lost", "tokyo", f"market/{market.id}").out)

    assert (gadget["kind"], gadget["name"], gadget["size_bytes"]) == ("gadget", "", 2)
    assert (kept["zone"], kept["epoch"], kept["id"], kept["name"]) == ("tokyo", 7, market.id, "to-be-lost")
    assert (shown["record"]["name"], shown["record"]["driver"]) == ("to-be-lost", "http")
    assert "was lost" in pair.berlin.fails(NOT_FOUND, "federation", "lost", "tokyo", "market/1")


@pytest.fixture
def broken(zones: Zones) -> Pair:
    """Two zones of a test's own, with a market and an app in each."""
    made = zones.pair()
    for zone in (made.berlin, made.tokyo):
        image = zone.native.import_image(f"image-{zone.name}", b"x" * 100)
        market = zone.native.create_market(f"market-{zone.name}")
        zone.native.create_app(f"app-{zone.name}", image.id, market.id)
    made.wait_equal()
    return made


def stops_changes(berlin: Zone, tokyo: Zone) -> None:
    """Hold that berlin, whose own catalog is at fault, says so, refuses changes and goes on reading."""
    until(lambda: berlin.native.status().alarms, "the alarm is shown")
    told = berlin.cli("federation", "status")
    assert told.status == 0
    assert "zone repair" in told.err
    done = berlin.cli("federation", "verify", "--json")
    assert (done.status, "zone repair" in done.sentence) == (CORRUPT, True)
    verdicts = {(row["zone_id"], row["catalog"]): row["verdict"] for row in json.loads(done.out)}
    assert verdicts == {(0, "federation"): "alarm", (0, "private"): "ok", (100, "federation"): "ok"}
    assert berlin.native.status().scrub.faults == 1
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "refused") as seen:
        berlin.native.create_market("not-now")
    assert "fedmarket zone repair" in (seen[0].details() or "")
    assert "app-berlin" in tokyo.native.app_names()  # the last good state
    assert "app-tokyo" in berlin.native.app_names()


def test_what_was_changed_in_an_own_record_is_an_alarm(broken: Pair) -> None:
    berlin, tokyo = broken.berlin, broken.tokyo
    market = berlin.native.market("market-berlin")

    flip(berlin, f"catalog/0/market/{market.id}")

    stops_changes(berlin, tokyo)
    assert berlin.native.market("market-berlin") == market
    assert "app-berlin" in berlin.native.app_names()
    assert holds(tokyo, berlin)
    tokyo.native.create_market("tokyo-goes-on")
    until(lambda: "tokyo-goes-on" in berlin.native.market_names(), "berlin follows tokyo")

    berlin.ask("zone", "repair")

    assert not berlin.native.status().alarms
    assert {row["verdict"] for row in checks(berlin).values()} == {"ok"}
    berlin.native.create_market("berlin-goes-on")
    broken.wait_equal()


def test_what_was_changed_while_the_agent_was_stopped_is_found_at_its_start(broken: Pair) -> None:
    berlin, tokyo = broken.berlin, broken.tokyo
    own, copied = berlin.native.market("market-berlin").id, berlin.native.market("market-tokyo").id
    berlin.terminate()
    asyncio.run(flip_stopped(berlin, f"zone/0/replica/100/market/{copied}", f"catalog/0/market/{own}"))

    berlin.start()

    until(lambda: follows(berlin), "berlin follows tokyo; tokyo keeps what it has")
    until(lambda: holds(berlin, tokyo), "the copy of tokyo is whole")
    stops_changes(berlin, tokyo)
