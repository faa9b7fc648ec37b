"""A zone whose etcd is full: what goes on, what its people are told, and that doing just that cures it."""

import secrets
import shlex
from collections.abc import Iterator

import grpc
import pytest

from fedmarket.pb.etcd import rpc_pb2, rpc_pb2_grpc
from fedmarket.pb.fedmarket.v1.peer_pb2 import RequestRecord
from tests.support.native import refused
from tests.support.zones import BOUND, Pair, Zone, until, yard
from tests.support.zones import run as fedmarket

QUOTA_MB = 16
VALUE = b"x" * 500_000
FILLING = b"/filling/"


@pytest.fixture(scope="module")
def zones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Berlin and tokyo; the etcd of tokyo holds little."""
    with yard(tmp_path_factory.mktemp("zones")) as made:
        berlin, tokyo = made.make(0, "berlin"), made.make(100, "tokyo")
        tokyo.set("etcd", quota_mb=QUOTA_MB)
        tokyo.set("timeouts", upkeep_seconds=1.0)
        berlin.follow(tokyo.id, tokyo.peer, tokyo.key)
        tokyo.follow(berlin.id, berlin.peer, berlin.key)
        pair = Pair(berlin, tokyo)
        pair.start()
        yield pair


@pytest.fixture
def pair(zones: Pair) -> Iterator[Pair]:
    """Both, and tokyo's etcd without what a test wrote there, history apart."""
    yield zones
    with zones.tokyo.etcd() as channel:
        rpc_pb2_grpc.KVStub(channel).DeleteRange(
            rpc_pb2.DeleteRangeRequest(key=FILLING, range_end=FILLING + b"\xff"), timeout=BOUND
        )


def fill(zone: Zone, *, anew: bool = False) -> None:
    """Write into a zone's etcd, as history or as data, until it takes no more."""
    with zone.etcd() as channel, pytest.raises(grpc.RpcError, match="database space exceeded"):
        write(rpc_pb2_grpc.KVStub(channel), anew=anew)


def write(kv: rpc_pb2_grpc.KVStub, *, anew: bool) -> None:
    for _ in range(10 * QUOTA_MB):
        key = FILLING + (secrets.token_hex(8).encode() if anew else b"0")
        kv.Put(rpc_pb2.PutRequest(key=key, value=VALUE), timeout=BOUND)


def told(zone: Zone) -> str:
    """Return the alarm of a zone that its etcd is full, once it is shown."""
    return until(
        lambda: next((alarm for alarm in zone.native.status().alarms if "no space left" in alarm), ""),
        f"{zone.name} says that its etcd is full",
    )


def do_what_it_says(sentence: str) -> list[str]:
    """Run the commands between backquotes, in their order, and return what each of them printed."""
    commands = [shlex.split(part) for part in sentence.split("`")[1::2]]
    assert [command[:3] for command in commands] == [
        ["fedmarket", "etcd", name] for name in ("compact", "defrag", "disarm")
    ]
    printed = []
    for command in commands:
        done = fedmarket(*command[1:])
        assert (done.status, done.err) == (0, ""), done
        printed.append(done.out.decode())
    return printed


def test_an_agent_goes_its_rounds(pair: Pair) -> None:
    tokyo = pair.tokyo
    keys = [f"/fedmarket/1/zone/{tokyo.id}/request/0/{name}".encode() for name in ("old", "running")]
    records = [RequestRecord(time=1), RequestRecord(time=1, running=True)]
    with tokyo.etcd() as channel:
        for key, record in zip(keys, records, strict=True):
            put = rpc_pb2.PutRequest(key=key, value=record.SerializeToString())
            rpc_pb2_grpc.KVStub(channel).Put(put, timeout=BOUND)

    def stored(below: str) -> list[bytes]:
        return [kv.key for kv in tokyo.stored(f"zone/{tokyo.id}/{below}")]

    until(lambda: stored("request/") == keys[1:], "the old request is forgotten, the one being made is not")
    until(lambda: stored("upkeep/marks"), "the age of lost records is noted")


def test_a_full_etcd_is_read_and_cured_by_what_the_alarm_says(pair: Pair) -> None:
    berlin, tokyo = pair.berlin, pair.tokyo
    berlin.native.create_market("before")
    until(lambda: "before" in tokyo.native.market_names(), "tokyo shows what berlin has made")
    fill(tokyo)

    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "no-space") as errors:
        tokyo.native.create_market("refused")
    sentence = told(tokyo)
    assert errors[0].details() == sentence
    assert f"of the {QUOTA_MB}.0 MiB that its quota allows" in sentence
    assert "no space left" in tokyo.log.read_text()
    assert tokyo.native.market_names() == ["before"]
    berlin.native.create_market("meanwhile")
    assert berlin.native.market_names() == ["before", "meanwhile"]

    do_what_it_says(sentence)
    tokyo.native.create_market("after")
    until(lambda: {"before", "meanwhile", "after"} == set(tokyo.native.market_names()), "tokyo's link goes on")
    pair.wait_equal()
    until(lambda: not tokyo.native.status().alarms, "the alarm is over")


def test_an_etcd_full_of_data_lets_its_agent_start_and_wants_a_larger_quota(pair: Pair) -> None:
    tokyo = pair.tokyo
    fill(tokyo, anew=True)
    assert told(tokyo)
    tokyo.kill()
    tokyo.start()
    disarm = shlex.split(told(tokyo).split("`")[-2])[1:]
    too_early = fedmarket(*disarm)
    assert too_early.status == 4
    assert all(part in too_early.sentence for part in ("etcd compact", "etcd defrag", "[etcd] quota_mb"))

    tokyo.set("etcd", quota_mb=4 * QUOTA_MB)
    assert tokyo.terminate() == 0
    tokyo.start()
    assert fedmarket(*disarm).status == 0
    tokyo.native.create_market("with room")
    pair.wait_equal()
