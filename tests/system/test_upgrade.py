"""Zones of different versions, as real processes: they understand each other, or say why not."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.head import DOMAIN, SealedHead, unseal
from federation.trust import Identity, PublicKey, ZoneKey
from fedmarket.pb.fedmarket.v1.peer_pb2 import FromSink, FromSource, Hello
from fedmarket.pb.fedmarket.v1.peer_pb2_grpc import PeerServiceStub
from fedmarket.pb.fedmarket.v1.zone_pb2 import LINK_STATE_REFUSED, LINK_STATE_TAIL
from tests.support import later_agent
from tests.support.hostile_home import HostileHome
from tests.support.newer import NEW_STATE, later, later_market, later_quota
from tests.support.zones import BOUND, Pair, Zone, Zones, follows, link, until

TOKYO = 100
MARKET, QUOTA = "market/100000200", "quota/100000100"


def later_program(lowest: int, highest: int) -> list[str]:
    """Return what runs an agent of a later version, which speaks these protocols."""
    alone = "-P"  # without its own directory, which has another module called federation
    return [sys.executable, alone, str(Path(later_agent.__file__)), str(lowest), str(highest)]


def refused(zone: Zone) -> str:
    """Wait until a zone's link is REFUSED, and return why."""
    until(lambda: link(zone).state == LINK_STATE_REFUSED, f"the link of {zone.name} is refused")
    return link(zone).last_error


def market_names(zone: Zone) -> list[str]:
    return [market["name"] for market in zone.ask("market", "list")]


class LaterHome(HostileHome):
    """An honest home of a later version: its heads, messages and records say more than this version knows."""

    def __init__(self, key: ZoneKey, follower: Zone, protocol: int = 1) -> None:
        super().__init__(TOKYO, key, follower, {MARKET: later_market(), QUOTA: later_quota()})
        self.protocol = protocol
        self.offered: list[Hello] = []
        body = later("Head").FromString(self.head.signed.body)
        body.origin = "of a head"
        raw = body.SerializeToString()
        signed = type(self.head.signed)(body=raw, key_id=key.public.key_id, sig=key.sign(DOMAIN + raw))
        self.head: SealedHead = unseal(signed, key.public)

    def Follow(self, request_iterator: Iterator[FromSink], context: grpc.ServicerContext) -> Iterator[FromSource]:  # noqa: N802 -- grpc's name
        for message in super().Follow(self._noted(request_iterator), context):
            if message.WhichOneof("message") == "welcome":
                message.welcome.protocol = self.protocol
            yield FromSource.FromString(later("FromSource")(chat="unheard of").SerializeToString())
            yield message

    def _noted(self, messages: Iterator[FromSink]) -> Iterator[FromSink]:
        for message in messages:
            if message.HasField("hello"):
                self.offered.append(message.hello)
            yield message


def test_a_later_home_is_followed_and_what_it_says_is_kept_and_shown(zones: Zones) -> None:
    berlin = zones.make(0, "berlin")
    with LaterHome(ZoneKey.generate(), berlin) as home:
        berlin.start()
        until(lambda: link(berlin).state == LINK_STATE_TAIL, "berlin follows the later home")
        replica = f"zone/0/replica/{TOKYO}/"
        stored = {kv.key.decode().rpartition(replica)[2]: kv.value for kv in berlin.stored(replica)}
        assert stored.pop("head") == home.head.encode()
        assert stored == dict(home.tree.items())
        (shown,) = berlin.ask("market", "list")
        assert (shown["name"], shown["state"], shown["zone_id"]) == ("m", f"unknown-{NEW_STATE}", TOKYO)
        assert f"unknown-{NEW_STATE}" in berlin.cli("market", "show", "m").out.decode()
        assert b"m " in berlin.cli("market", "list").out
        berlin.terminate()
        berlin.start()
        until(lambda: link(berlin).state == LINK_STATE_TAIL, "berlin follows again")
        assert home.offered[-1].have.body == home.head.signed.body, "it goes on from the head that it kept"
        assert berlin.ask("federation", "verify")[1]["verdict"] == "ok"


def test_a_home_that_answers_in_a_protocol_that_was_not_offered_is_refused_and_asked_again(zones: Zones) -> None:
    berlin = zones.make(0, "berlin")
    with LaterHome(ZoneKey.generate(), berlin, protocol=2) as home:
        berlin.start()
        assert "answers in protocol 2, and was offered 1: upgrade the older" in refused(berlin)
        assert berlin.dump(f"zone/0/replica/{TOKYO}/") == {}
        home.protocol = 1
        assert berlin.cli("federation", "retry", str(TOKYO)).status == 0
        until(lambda: link(berlin).state == LINK_STATE_TAIL, "berlin follows")


@contextmanager
def dialled(berlin: Zone, key: ZoneKey) -> Iterator[PeerServiceStub]:
    """Open a channel to the real peer port, as a zone that it trusts."""
    credentials = Identity(TOKYO, key, {berlin.id: PublicKey.parse(berlin.key)}).channel_credentials(berlin.id)
    options: list[tuple[str, Any]] = [*credentials.options, ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"127.0.0.1:{berlin.peer}", credentials.credentials, options) as channel:
        yield PeerServiceStub(channel)


def test_a_later_follower_is_answered_in_the_greatest_common_protocol_or_told_why_not(zones: Zones) -> None:
    berlin, key = zones.make(0, "berlin"), ZoneKey.generate()
    berlin.follow(TOKYO, 1, str(key.public))  # trusted, and not there
    berlin.start()

    def ask(hello: Any) -> Iterator[FromSource]:
        chat = later("FromSink")(chat="unheard of")
        said = [FromSink.FromString(message.SerializeToString()) for message in (later("FromSink")(hello=hello), chat)]
        return iter(stub.Follow(iter(said), timeout=BOUND))

    with dialled(berlin, key) as stub:
        answers = ask(later("Hello")(zone=TOKYO, protocol_min=1, protocol_max=9, origin="later"))
        assert next(answers).welcome.protocol == 1
        assert next(answers).HasField("diff")
        (refusal,) = list(ask(later("Hello")(zone=TOKYO, protocol_min=2, protocol_max=9)))
        assert (refusal.refuse.code, refusal.refuse.text) == (
            "protocol",
            "the home speaks protocol 1, the follower 2 to 9: upgrade the older of the two agents",
        )


@pytest.fixture
def mixed(zones: Zones) -> tuple[Zone, Zone]:
    """Berlin, of this version, and tokyo, of a later one, which follow each other."""
    berlin, tokyo = zones.make(0, "berlin"), zones.make(TOKYO, "tokyo")
    berlin.follow(tokyo.id, tokyo.peer, tokyo.key)
    tokyo.follow(berlin.id, berlin.peer, berlin.key)
    tokyo.program = later_program(1, 2)
    for zone in (berlin, tokyo):
        zone.spawn()
    for zone in (berlin, tokyo):
        zone.wait_serving()
    until(lambda: follows(berlin) and follows(tokyo), "both zones follow each other")
    return berlin, tokyo


def test_zones_are_upgraded_one_after_the_other_and_one_goes_back(mixed: tuple[Zone, Zone]) -> None:
    berlin, tokyo = mixed
    tokyo.native.create_market("of-later")
    berlin.native.create_market("of-this")
    until(
        lambda: market_names(berlin) == market_names(tokyo) == ["of-this", "of-later"], "each sees what the other made"
    )

    tokyo.terminate()  # the version after that no longer speaks what berlin does
    tokyo.program = later_program(2, 3)
    tokyo.start()
    assert "the home speaks protocol 2 to 3, the follower 1: upgrade" in refused(berlin)
    assert "the home speaks protocol 1, the follower 2 to 3: upgrade" in refused(tokyo)
    assert market_names(berlin) == ["of-this", "of-later"], "what was seen before is still there"

    before = tokyo.dump("catalog/")
    tokyo.terminate()  # back to this version, over the store that the later one has written
    tokyo.program = berlin.program
    tokyo.start()
    assert {k: v[0] for k, v in tokyo.dump("catalog/").items()} == {k: v[0] for k, v in before.items()}
    assert "upgrade the agent" in tokyo.fails(4, "market", "delete", "of-later")
    tokyo.native.create_market("of-this-again")
    assert berlin.cli("federation", "retry", "tokyo").status == 0
    Pair(berlin, tokyo).wait_equal()
    assert market_names(berlin) == ["of-this", "of-later", "of-this-again"]
    assert {c["verdict"] for zone in mixed for c in zone.ask("federation", "verify")} == {"ok"}
