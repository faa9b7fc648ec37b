"""Zones that lost their etcd, or a part of it: what refuses, and how each of them comes back."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from fedmarket.pb.etcd import rpc_pb2, rpc_pb2_grpc
from tests.support.etcd import EtcdServer
from tests.support.native import refused
from tests.support.zones import BOUND, Done, Pair, Zone, Zones, run, until

BAD_INPUT, REFUSED, CORRUPT = 2, 4, 8
GAP = 10_000


def offline(zone: Zone, *arguments: str | Path) -> Done:
    """Run a command that works on a stopped zone."""
    return run("zone", *arguments, "--config", zone.config)


def done(zone: Zone, *arguments: str | Path) -> str:
    """Run one that must succeed, and return what it says."""
    ended = offline(zone, *arguments)
    assert (ended.status, ended.err) == (0, ""), ended
    return ended.out.decode()


def lose_etcd(zone: Zone) -> None:
    """Stop a zone's agent and take its etcd's data away."""
    assert zone.terminate() == 0
    shutil.rmtree(zone.directory / "etcd")


def refuses_to_start(zone: Zone) -> None:
    """Require that the agent says in one sentence that etcd is empty, and names both ways out."""
    ended = run("agent", "run", "--config", zone.config, "--log-level", "error")
    assert ended.status == BAD_INPUT, ended
    assert "`fedmarket zone restore`" in ended.sentence
    assert "`fedmarket zone init --new-epoch`" in ended.sentence


def fill(zone: Zone, apps: int = 3) -> list[int]:
    """Create a market and apps in it; return the ids of the apps."""
    zone.native.create_market("shop")
    image = zone.native.import_image("seed", b"some bytes" * 100)
    return [zone.native.create_app(f"app{n}", image.id, "shop").id for n in range(apps)]


def put(zone: Zone, key: str, value: bytes) -> None:
    """Write one record of a zone's own federated catalog into its etcd, as no agent does."""
    with zone.etcd() as channel:
        request = rpc_pb2.PutRequest(key=f"/fedmarket/1/catalog/{zone.id}/{key}".encode(), value=value)
        rpc_pb2_grpc.KVStub(channel).Put(request, timeout=BOUND)


def delete(zone: Zone, below: str) -> None:
    """Delete every key of a zone's etcd below a part of the prefix."""
    begin = f"/fedmarket/1/{below}".encode()
    with zone.etcd() as channel:
        request = rpc_pb2.DeleteRangeRequest(key=begin, range_end=begin[:-1] + bytes([begin[-1] + 1]))
        rpc_pb2_grpc.KVStub(channel).DeleteRange(request, timeout=BOUND)


def flip(zone: Zone, app: int) -> None:
    """Change one byte of a stored app."""
    value, _ = zone.dump()[f"/fedmarket/1/catalog/{zone.id}/app/{app}"]
    put(zone, f"app/{app}", value[:-1] + bytes([value[-1] ^ 1]))


def wait_refusing(zone: Zone) -> None:
    """Wait until the zone has noticed, and require that it takes no changes and says what to do."""
    until(lambda: any("`fedmarket zone repair`" in alarm for alarm in zone.native.status().alarms), "an alarm")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "refused"):
        zone.native.create_market("refused")


@pytest.fixture
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """An etcd that is no agent's child."""
    server = EtcdServer(tmp_path_factory.mktemp("external"))
    server.start()
    yield server
    server.stop()


# -- a zone that lost its etcd


def test_a_new_epoch_with_nothing_is_followed_and_peers_keep_what_was(zones: Zones) -> None:
    pair = zones.pair()
    tokyo = pair.tokyo
    apps = fill(tokyo)
    pair.wait_equal()
    lose_etcd(tokyo)
    refuses_to_start(tokyo)

    assert "--yes" in offline(tokyo, "init", "--new-epoch").sentence
    assert "agent init" in offline(tokyo, "init").sentence
    said = done(tokyo, "init", "--new-epoch", "--yes")
    assert "epoch 2 begins with 0 records" in said
    assert "below lost/" in said

    tokyo.start()
    pair.wait_equal()
    assert [app for app in pair.berlin.native.app_names() if app.startswith("app")] == []
    lost = pair.berlin.dump(f"zone/0/replica/{tokyo.id}/lost/1/app/")
    assert sorted(int(key.rpartition("/")[2]) for key in lost) == apps
    tokyo.native.create_market("shop")
    image = tokyo.native.import_image("again", b"other bytes")
    assert tokyo.native.create_app("new", image.id, "shop").id > apps[-1] + GAP
    pair.wait_equal()


def test_a_zone_that_never_committed_anything_needs_no_new_epoch(zones: Zones) -> None:
    zone = zones.make(5, "lagos")
    assert "needs no new epoch" in done(zone, "init", "--new-epoch", "--yes")
    zone.start()
    assert "stop that agent first" in offline(zone, "init", "--new-epoch", "--yes").sentence
    assert zone.terminate() == 0
    assert "epoch 2 begins with 1 record." in done(zone, "init", "--new-epoch", "--yes")
    zone.start()
    assert zone.native.status().self.head.epoch == 2


def test_a_zone_gets_its_catalog_back_from_a_peer(zones: Zones) -> None:
    pair = zones.pair()
    berlin, tokyo = pair.berlin, pair.tokyo
    apps = fill(tokyo)
    pair.wait_equal()
    file = tokyo.directory / "tokyo.catalog"
    exported = berlin.ask("zone", "export", "tokyo", file)
    assert (exported["zone_id"], exported["count"]) == (tokyo.id, len(apps) + 2)
    assert "--force" in berlin.fails(REFUSED, "zone", "export", "tokyo", file)
    lose_etcd(tokyo)

    assert "[[peers]]" in offline(tokyo, "restore", "--from", "7").sentence
    assert "cannot be read" in offline(tokyo, "restore", "--from", "nowhere").sentence
    done(tokyo, "restore", "--from", str(berlin.id))
    assert "not newer" in offline(tokyo, "restore", "--from", file).sentence

    tokyo.start()
    pair.wait_equal()
    assert [tokyo.native.app(app).name for app in apps] == ["app0", "app1", "app2"]
    assert tokyo.native.image_names() == []  # the private catalog is in no peer
    assert berlin.native.export(apps[0], "fetched").sha256 == tokyo.native.app(apps[0]).sha256
    image = tokyo.native.import_image("again", b"other bytes")
    assert tokyo.native.create_app("new", image.id, "shop").id > apps[-1] + GAP
    pair.wait_equal()


def test_a_restore_from_a_file_that_was_cut_off_is_run_again(zones: Zones, etcd: EtcdServer) -> None:
    zone = zones.make(9, "quito")
    zone.set("etcd", embedded=False, endpoints=[f"127.0.0.1:{etcd.port}"])
    zone.etcd_port = etcd.port
    zone.start()
    apps = fill(zone)
    file = zone.directory / "own.catalog"
    piped = zone.cli("zone", "export", "-")
    zone.ask("zone", "export", file)
    assert piped.status == 0
    assert len(file.read_bytes()) == len(piped.out)
    records = zone.dump(f"catalog/{zone.id}/")
    assert "stop it first" in offline(zone, "restore", "--from", file).sentence
    assert zone.terminate() == 0

    delete(zone, "")
    for key in sorted(records)[:2]:  # as far as the first of two transactions came
        put(zone, key.partition(f"catalog/{zone.id}/")[2], records[key][0])
    refuses_to_start(zone)
    damaged = zone.directory / "damaged.catalog"
    damaged.write_bytes(file.read_bytes()[:-5])
    assert offline(zone, "restore", "--from", damaged).status == CORRUPT
    assert "images, datastores" in done(zone, "restore", "--from", file)

    zone.start()
    assert [zone.native.app(app).name for app in apps] == ["app0", "app1", "app2"]
    assert zone.native.status().self.head.epoch == 2
    image = zone.native.import_image("again", b"other bytes")
    assert zone.native.create_app("new", image.id, "shop").id > apps[-1] + GAP


# -- records that somebody changed


def test_a_record_that_was_changed_by_hand_is_put_back(zones: Zones) -> None:
    pair = zones.pair()
    berlin, tokyo = pair.berlin, pair.tokyo
    apps = fill(tokyo)
    pair.wait_equal()
    assert tokyo.cli("zone", "repair").out.decode().splitlines()[0].startswith("federation: sound")

    flip(tokyo, apps[0])
    wait_refusing(tokyo)
    assert tokyo.native.app(apps[0]).name == "app0"  # reads go on
    federation, private = tokyo.ask("zone", "repair")
    assert (federation["outcome"], private["outcome"]) == ("restored", "sound")
    assert (federation["source"], federation["written"]) == ("the memory of this agent", [f"app/{apps[0]}"])
    tokyo.native.create_market("repaired")
    pair.wait_equal()

    flip(tokyo, apps[1])
    wait_refusing(tokyo)
    assert tokyo.terminate() == 0
    tokyo.start()  # without any memory of what was there
    wait_refusing(tokyo)
    federation, _ = tokyo.ask("zone", "repair")
    assert (federation["source"], federation["written"]) == (f"zone {berlin.id}", [f"app/{apps[1]}"])
    tokyo.native.create_market("repaired again")
    assert [tokyo.native.app(app).name for app in apps] == ["app0", "app1", "app2"]
    pair.wait_equal()


def test_what_nobody_has_a_good_copy_of_is_signed_only_by_a_persons_word(zones: Zones) -> None:
    pair = zones.pair()
    berlin, tokyo = pair.berlin, pair.tokyo
    apps = fill(tokyo)
    pair.wait_equal()
    assert berlin.terminate() == 0
    value, _ = tokyo.dump()[f"/fedmarket/1/catalog/{tokyo.id}/app/{apps[0]}"]
    put(tokyo, f"app/{apps[0]}", value.replace(b"app0", b"APP0"))
    wait_refusing(tokyo)
    assert tokyo.terminate() == 0
    tokyo.start()

    sentence = tokyo.fails(REFUSED, "zone", "repair")
    assert f"zone {berlin.id}" in sentence
    assert "--accept" in sentence
    federation, _ = json.loads(tokyo.cli("zone", "repair", "--accept", "--json").out)
    assert (federation["outcome"], federation["removed"]) == ("accepted", [])
    assert tokyo.native.app(apps[0]).name == "APP0"
    tokyo.native.create_market("accepted")
    berlin.start()
    Pair(berlin, tokyo).wait_equal()
    assert berlin.native.app(apps[0]).name == "APP0"
