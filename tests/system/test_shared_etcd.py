"""Two zones on one etcd: the story without a link, what happens when one moves out, and when it moves in again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmarket.pb.etcd import rpc_pb2, rpc_pb2_grpc
from fedmarket.pb.fedmarket.v1.zone_pb2 import LINK_STATE_SHARED, LINK_STATE_TAIL
from tests.support.etcd import EtcdServer
from tests.support.zones import BOUND, Zone, Zones, free_port, link, until

REFUSED = 4


@pytest.fixture
def etcds(tmp_path: Path) -> Iterator[list[EtcdServer]]:
    """Two etcds without any flag that tells them apart: both have the same cluster id."""
    servers = [EtcdServer(tmp_path / f"etcd-{n}", "--initial-cluster-token=etcd-cluster") for n in range(2)]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.stop()


def use(zone: Zone, etcd: EtcdServer) -> None:
    """Have a zone keep its catalog in an etcd that runs elsewhere."""
    zone.set("etcd", embedded=False, endpoints=[etcd.endpoint], client_port=0)
    zone.etcd_port = etcd.port


def pin_each_other(berlin: Zone, tokyo: Zone, *, reachable: bool) -> None:
    for zone, other in ((berlin, tokyo), (tokyo, berlin)):
        zone.follow(other.id, other.peer if reachable else free_port(), other.key)


def start(*zones: Zone) -> None:
    for zone in zones:
        zone.spawn()
    for zone in zones:
        zone.wait_serving()


def wait_state(zone: Zone, state: int) -> None:
    until(
        lambda: link(zone).state == state, f"the link of {zone.name} comes to state {state}: see {zone.log}", 2 * BOUND
    )


def move(zone: Zone, source: EtcdServer, target: EtcdServer) -> None:
    """Take all that a zone has written from one etcd to another, as its operator does while its agent is stopped."""
    below = [f"catalog/{zone.id}/", f"zone/{zone.id}/"]
    zone.etcd_port = target.port
    with zone.etcd() as channel:
        for part in below:
            key = f"/fedmarket/1/{part}".encode()
            rpc_pb2_grpc.KVStub(channel).DeleteRange(rpc_pb2.DeleteRangeRequest(key=key, range_end=key[:-1] + b"0"))
    zone.etcd_port = source.port
    found = [kv for part in below for kv in zone.stored(part)]
    zone.etcd_port = target.port
    with zone.etcd() as channel:
        for kv in found:
            rpc_pb2_grpc.KVStub(channel).Put(rpc_pb2.PutRequest(key=kv.key, value=kv.value))


def test_two_zones_on_one_etcd_share_their_markets_without_a_link(
    zones: Zones, etcds: list[EtcdServer], tmp_path: Path
) -> None:
    berlin, tokyo = zones.make(0, "berlin"), zones.make(100, "tokyo")
    for zone in (berlin, tokyo):
        use(zone, etcds[0])
    pin_each_other(berlin, tokyo, reachable=True)
    start(berlin, tokyo)
    wait_state(berlin, LINK_STATE_SHARED)
    wait_state(tokyo, LINK_STATE_SHARED)
    content = b"shared" * 10_000
    (tmp_path / "disk.raw").write_bytes(content)
    berlin.ask("image", "import", tmp_path / "disk.raw", "--name", "i", "--datastore", "default")
    berlin.ask("market", "create", "--name", "m", "--driver", "http", "--scope", "federation")
    app = berlin.ask("app", "create", "--image", "i", "--market", "m", "--name", "a")
    until(lambda: "a" in tokyo.native.app_names(), "tokyo lists the app")
    assert tokyo.ask("app", "show", "a") == app
    assert "berlin" in tokyo.fails(REFUSED, "app", "create", "-i", "i", "-m", "m", "--name", "intruder")
    brought = tokyo.ask("app", "export", "a", "--datastore", "default", "--name", "brought")
    assert Path(brought["source"]).read_bytes() == content
    berlin.ask("app", "delete", "a")
    until(lambda: "a" not in tokyo.native.app_names(), "the app is gone in tokyo")
    (row,) = tokyo.ask("federation", "status")
    assert (row["state"], row["last_error"], row["name"]) == ("shared", "", "berlin")
    assert 0 <= row["age_seconds"] < BOUND
    copied = [kv.key for kv in tokyo.stored("zone/100/replica/0/") if not kv.key.endswith(b"/head")]
    assert copied == [], "nothing is copied that is there already"
    assert not tokyo.stored("owner")


def test_a_peer_that_cannot_be_dialled_is_seen_all_the_same(zones: Zones, etcds: list[EtcdServer]) -> None:
    berlin, tokyo = zones.make(0, "berlin"), zones.make(100, "tokyo")
    for zone in (berlin, tokyo):
        use(zone, etcds[0])
    pin_each_other(berlin, tokyo, reachable=False)
    start(berlin, tokyo)
    wait_state(tokyo, LINK_STATE_SHARED)
    berlin.native.create_market("m")
    until(lambda: "m" in tokyo.native.market_names(), "tokyo lists the market")


@pytest.mark.timeout(300)
def test_a_zone_moves_out_and_in_again(zones: Zones, etcds: list[EtcdServer]) -> None:
    berlin, tokyo = zones.make(0, "berlin"), zones.make(100, "tokyo")
    together, apart = etcds
    for zone in (berlin, tokyo):
        use(zone, together)
    pin_each_other(berlin, tokyo, reachable=True)
    start(berlin, tokyo)
    wait_state(tokyo, LINK_STATE_SHARED)
    berlin.native.create_market("first")
    until(lambda: "first" in tokyo.native.market_names(), "tokyo lists the market")

    berlin.terminate()
    move(berlin, together, apart)
    use(berlin, apart)
    start(berlin)
    berlin.native.create_market("second")
    wait_state(tokyo, LINK_STATE_TAIL)
    wait_state(berlin, LINK_STATE_TAIL)
    until(lambda: {"first", "second"} <= set(tokyo.native.market_names()), "tokyo lists both markets")

    berlin.terminate()
    move(berlin, apart, together)
    use(berlin, together)
    start(berlin)
    berlin.native.create_market("third")
    wait_state(tokyo, LINK_STATE_SHARED)
    wait_state(berlin, LINK_STATE_SHARED)
    assert {"first", "second", "third"} <= set(tokyo.native.market_names())
    epochs = [zone.native.status().self.head.epoch for zone in (berlin, tokyo)]
    assert epochs == [1, 1], "nothing was taken for a restore"


def test_two_etcds_without_flags_are_not_taken_for_one(zones: Zones, etcds: list[EtcdServer]) -> None:
    berlin, tokyo = zones.make(0, "berlin"), zones.make(100, "tokyo")
    for zone, etcd in zip((berlin, tokyo), etcds, strict=True):
        use(zone, etcd)
    pin_each_other(berlin, tokyo, reachable=True)
    start(berlin, tokyo)
    wait_state(berlin, LINK_STATE_TAIL)
    wait_state(tokyo, LINK_STATE_TAIL)
    berlin.native.create_market("m")
    until(lambda: "m" in tokyo.native.market_names(), "tokyo lists the market")


def test_zones_with_different_prefixes_on_one_etcd_follow_each_other(zones: Zones, etcds: list[EtcdServer]) -> None:
    berlin, tokyo = zones.make(0, "berlin"), zones.make(100, "tokyo")
    for zone in (berlin, tokyo):
        use(zone, etcds[0])
    berlin.set("etcd", prefix="/elsewhere/")
    pin_each_other(berlin, tokyo, reachable=True)
    start(berlin, tokyo)
    wait_state(tokyo, LINK_STATE_TAIL)
    berlin.native.create_market("m")
    until(lambda: "m" in tokyo.native.market_names(), "tokyo lists the market")
