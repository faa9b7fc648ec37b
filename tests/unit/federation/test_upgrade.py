"""Versions that differ: what a later one writes survives this one, and the two agree on how to talk, or say why not."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from federation.commit import Origin
from federation.draft import Draft, IdRange
from federation.head import FEDERATION, PRIVATE, unseal_bytes
from federation.index import Index
from federation.keys import HEAD
from federation.link import sink as sinks
from federation.link import source as sources
from federation.link.sink import State
from federation.link.source import Refusal, Source
from federation.recall import Copy, from_bytes, gather, messages_of, to_bytes
from federation.records import encode, kind_of
from federation.repair import Answers, Held, Outcome, Repairer, acceptable
from federation.scrub import Subject, Verdict, examine
from federation.store import Txn
from federation.tree import Tree
from fedmarket.errors import Refused
from fedmarket.pb.fedmarket.v1.peer_pb2 import FromSink, FromSource, Hello, Welcome
from fedmarket.pb.fedmarket.v1.record_pb2 import AppRecord, MarketRecord
from tests.support.federation import Zone, key_of, market
from tests.support.newer import (
    NEW_SCHEMA,
    NEW_STATE,
    later,
    later_app,
    later_market,
    later_quota,
    later_record,
    read,
    write_as_later,
)

BOUND = 10.0
MARKET, APP, QUOTA = "market/200", "app/200", "quota/100"
RECORDS = {MARKET: later_market(), APP: later_app("a", 200), QUOTA: later_quota()}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not condition():
            await asyncio.sleep(0.005)


def records_of(tree: Tree) -> dict[str, bytes]:
    return {key: value for key, value in tree.items() if key in RECORDS}


async def stored(zone: Zone, prefix: str) -> dict[str, bytes]:
    return {item.key.removeprefix(prefix): item.value for item in (await zone.store.snapshot(prefix)).items}


def renamed(value: bytes) -> bytes:
    """Return a market as the later version would have it after nothing but a rename."""
    envelope, message = read("MarketRecord", value)
    message.name = "renamed"
    envelope.payload = message.SerializeToString()
    return bytes(envelope.SerializeToString())


# -- records


def draft_of(records: dict[str, bytes]) -> Draft:
    tree = Tree.of(records)
    return Draft(tree, Index.of(tree), {}, IdRange(0, FEDERATION))


def test_all_that_a_later_version_wrote_into_a_record_survives_a_change() -> None:
    draft = draft_of({MARKET: RECORDS[MARKET]})
    record = draft.get(MarketRecord, 200)
    assert record is not None
    assert (record.message.name, record.message.state) == ("m", NEW_STATE)
    record.message.name = "renamed"
    record.message.template.attributes.add(name="C", value="3")
    record.message.owner.uid = 7
    draft.put(200, record)
    assert draft.keep()
    changed = draft.changes[MARKET]
    assert changed is not None
    envelope, message = read("MarketRecord", changed)
    was_envelope, was = read("MarketRecord", RECORDS[MARKET])
    was.name, was.owner.uid = "renamed", 7
    was.template.attributes.add(name="C", value="3")
    assert message == was
    assert (envelope.uid, envelope.min_reader, envelope.origin) == (was_envelope.uid, 1, "later")


@pytest.mark.parametrize("change", [Draft.delete, "put"], ids=["delete", "change"])
def test_what_only_a_later_version_may_change_is_not_changed_nor_deleted(change: Any) -> None:
    draft = draft_of({MARKET: later_market(min_reader=NEW_SCHEMA)})
    record = draft.get(MarketRecord, 200)
    assert record is not None
    assert record.message.name == "m", "it can be read"
    with pytest.raises(Refused, match=r"this market may be changed only by .* schema 2, .* knows 1: upgrade the agent"):
        draft.put(200, record) if change == "put" else change(draft, MarketRecord, 200)
    assert draft.keep()
    assert draft.changes == {}


async def test_a_record_that_may_not_be_changed_keeps_no_other_change_of_the_commit_from_it() -> None:
    async with Zone(0) as zone:
        await write_as_later(zone, {MARKET: later_market(min_reader=NEW_SCHEMA)})
        done = await asyncio.gather(
            zone.create("before"),
            zone.rename(200, "no"),
            zone.delete(200),
            zone.create("after"),
            return_exceptions=True,
        )
        assert [isinstance(one, Refused) for one in done] == [False, True, True, False]
        assert zone.own.tree.count == 3


# -- catalogs


async def test_records_and_kinds_of_a_later_version_survive_our_commits_and_count() -> None:
    """As after a downgrade: what a later version of this zone's own agent wrote."""
    async with Zone(0) as zone:
        await write_as_later(zone, RECORDS, market=201, app=201, quota=101)
        assert zone.own.tree.count == 3
        created = await zone.create("by this version")
        await zone.rename(200, "renamed")
        state = zone.own.state
        assert state is not None
        assert created == 201
        assert (state.head.head.count, state.head.head.root) == (4, zone.own.tree.root)
        assert dict(state.head.head.next_ids) == {"app": 201, "market": 202, "quota": 101}
        assert records_of(zone.own.tree) == RECORDS | {MARKET: renamed(RECORDS[MARKET])}
        await zone.writer.begin_epoch([])
        assert zone.own.pair[0] == 2
        assert zone.own.state is not None
        assert zone.own.state.head.head.next_ids["quota"] == 10_101, "ids of unknown kinds are not given out twice"


async def test_a_restart_finds_what_a_later_version_wrote() -> None:
    async with Zone(0) as zone:
        await write_as_later(zone, RECORDS)
        store = zone.store
    async with Zone(0, store) as again:
        await again.own.wait_listed()
        assert records_of(again.own.tree) == RECORDS
        assert not again.own.fault
        await again.rename(200, "renamed")
        assert records_of(again.own.tree) == RECORDS | {MARKET: renamed(RECORDS[MARKET])}


@pytest.mark.parametrize("ring", [1 << 20, 0], ids=["TAIL", "DIFF"])
async def test_a_link_brings_what_a_later_version_wrote_byte_for_byte_with_its_heads(ring: int) -> None:
    async with Zone(0, ring_bytes=ring) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await tokyo.caught_up_with(berlin)
        await write_as_later(berlin, RECORDS, quota=101)
        await tokyo.caught_up_with(berlin)
        replica = tokyo.keyspace.replica(0)
        assert await stored(tokyo, replica) == await stored(berlin, berlin.keyspace.own)
        head = unseal_bytes(tokyo.replicas[0].stored[0], berlin.key.public)
        assert later("Head").FromString(head.signed.body).origin == "of a head"
        assert later("SignedHead").FromString(head.encode()).origin == "of a signed head"
        await berlin.rename(200, "renamed")
        await tokyo.caught_up_with(berlin)
        assert tokyo.replicas[0].tree.get(MARKET) == renamed(RECORDS[MARKET])
        assert await stored(tokyo, replica) == await stored(berlin, berlin.keyspace.own)
        for zone, catalog, key in ((berlin, berlin.own, berlin.key), (tokyo, tokyo.replicas[0], berlin.key)):
            check = await examine(zone.store, Subject(catalog, FEDERATION, key.public), BOUND)
            assert (check.verdict, check.count) == (Verdict.OK, 3)


async def test_a_head_of_a_later_version_is_judged_as_ours_by_its_home() -> None:
    """It comes back by Welcome.yours and Hello.have, and proves no loss."""
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await write_as_later(berlin, RECORDS)
        await tokyo.caught_up_with(berlin)
        held = tokyo.newest_of(0)
        assert held is not None
        await berlin.create("after")
        await berlin.restorer.show(held)
        assert berlin.own.pair[0] == 1


async def test_a_repair_puts_back_what_a_later_version_wrote() -> None:
    async with Zone(0) as zone:
        await write_as_later(zone, RECORDS)
        state = zone.own.state
        assert state is not None
        good = Copy(state.head, state.tree)

        async def ask() -> Answers:
            return Answers([Held("zone 100", good)])

        await zone.store.txn(Txn({}, puts={zone.keyspace.own + QUOTA: b"damaged"}, deletes=[zone.keyspace.own + APP]))
        await until(lambda: bool(zone.own.fault))
        origin = Origin(0, FEDERATION, zone.keyspace.own, zone.key, "repair")
        done = await Repairer(zone.store, zone.own, origin, ask, BOUND).repair(accept=False)
        assert done.outcome is Outcome.RESTORED
        assert records_of(zone.own.tree) == RECORDS


async def test_a_catalog_that_a_peer_gives_back_has_all_that_a_later_version_wrote() -> None:
    async with Zone(0) as zone:
        await write_as_later(zone, RECORDS)
        assert zone.own.state is not None
        head, tree = zone.own.state.head, zone.own.state.tree
        file = b"".join(to_bytes(messages_of(head, tree)))
        back = gather(from_bytes(file), 0, zone.key.public)
        assert records_of(back.tree) == RECORDS
        assert back.head.encode() == (await stored(zone, zone.keyspace.own))[HEAD]


@pytest.mark.parametrize(
    ("catalog", "key", "accepted"),
    [
        (FEDERATION, "quota/100000100", True),
        (FEDERATION, "quota/100", False),
        (PRIVATE, "quota/0", True),
        (PRIVATE, "quota/100500000", True),
    ],
)
def test_a_record_of_an_unknown_kind_is_signed_by_accept_where_it_can_be_one_of_the_catalog(
    catalog: Any, key: str, accepted: bool
) -> None:
    origin = Origin(100, catalog, "/", key_of(100), "repair")
    assert acceptable(origin, key, later_quota()) is accepted


# -- links


def later_chat() -> bytes:
    return bytes(later("FromSource")(chat="of a version to come").SerializeToString())


async def test_a_message_that_only_a_later_version_knows_is_left_out_by_both_sides() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await berlin.create("first")
        await tokyo.caught_up_with(berlin)
        await until(lambda: tokyo.links[0].status.state is State.TAIL)
        dials = tokyo.links[0].dials
        for stream in tokyo._streams:
            await stream._outgoing.put(FromSink.FromString(later_chat()))
            await stream._incoming.put(FromSource.FromString(later_chat()))
        await berlin.create("second")
        await tokyo.caught_up_with(berlin)
        assert (tokyo.links[0].dials, tokyo.links[0].status.state) == (dials, State.TAIL)


async def test_an_unknown_message_says_not_that_the_copy_is_current() -> None:
    async with Zone(0) as berlin:
        assert berlin.own.state is not None
        state = berlin.own.state
        sink = sinks.Sink(100, 0, berlin.key.public, state.head, state.tree)
        source = Source(berlin.ring, 100, lambda: None)
        source.receive(sink.hello())
        while (message := source.next()) is not None:
            sink.receive(message)
        assert sink.current
        assert sink.receive(FromSource.FromString(later_chat())) == []
        assert not sink.current


def speak(monkeypatch: pytest.MonkeyPatch, module: Any, lowest: int, highest: int) -> None:
    monkeypatch.setattr(module, "PROTOCOL_MIN", lowest)
    monkeypatch.setattr(module, "PROTOCOL_MAX", highest)


@pytest.mark.parametrize(
    ("home", "follower", "common"),
    [((1, 1), (1, 3), 1), ((1, 3), (1, 2), 2), ((2, 4), (1, 3), 3), ((1, 3), (3, 5), 3), ((2, 2), (1, 2), 2)],
)
async def test_the_greatest_protocol_that_both_speak_is_taken(
    monkeypatch: pytest.MonkeyPatch, home: tuple[int, int], follower: tuple[int, int], common: int
) -> None:
    speak(monkeypatch, sources, *home)
    speak(monkeypatch, sinks, *follower)
    async with Zone(0) as berlin, Zone(100) as tokyo:
        source = Source(berlin.ring, 100, lambda: None)
        source.receive(sinks.Sink(100, 0, berlin.key.public, None, Tree.empty()).hello())
        welcome = source.next()
        assert welcome is not None
        assert welcome.welcome.protocol == common
        tokyo.follow(berlin)
        await berlin.create("m")
        await tokyo.caught_up_with(berlin)


@pytest.mark.parametrize(
    ("home", "follower", "said"),
    [
        ((1, 1), (2, 3), "the home speaks protocol 1, the follower 2 to 3: upgrade"),
        ((3, 5), (1, 2), "the home speaks protocol 3 to 5, the follower 1 to 2: upgrade"),
    ],
)
async def test_zones_without_a_common_protocol_say_so_until_one_is_upgraded(
    monkeypatch: pytest.MonkeyPatch, home: tuple[int, int], follower: tuple[int, int], said: str
) -> None:
    speak(monkeypatch, sources, *home)
    speak(monkeypatch, sinks, *follower)
    async with Zone(0) as berlin, Zone(100) as tokyo:
        link = tokyo.follow(berlin)
        await berlin.create("m")
        await until(lambda: link.status.state is State.REFUSED)
        assert said in link.status.last_error
        assert tokyo.replicas[0].tree.count == 0
        speak(monkeypatch, sources, 1, 5)
        link.retry()  # what the link does by itself after a minute: docs/replication.md's table has it
        await tokyo.caught_up_with(berlin)


@pytest.mark.parametrize(("lowest", "highest"), [(0, 0), (2, 1), (3, 1), (2, 2**32 - 1)])
async def test_a_range_that_says_nothing_is_refused(lowest: int, highest: int) -> None:
    async with Zone(0) as berlin:
        source = Source(berlin.ring, 100, lambda: None)
        with pytest.raises(Refusal) as refused:
            source.receive(FromSink(hello=Hello(zone=100, protocol_min=lowest, protocol_max=highest)))
        assert refused.value.message.refuse.code == "protocol"


@pytest.mark.parametrize("answered", [0, 2, 7])
async def test_an_answer_in_a_protocol_that_was_not_offered_is_refused(answered: int) -> None:
    async with Zone(0) as berlin:
        assert berlin.own.state is not None
        state = berlin.own.state
        sink = sinks.Sink(100, 0, berlin.key.public, None, Tree.empty())
        (close,) = sink.receive(FromSource(welcome=Welcome(protocol=answered, head=state.head.signed)))
        assert isinstance(close, sinks.Close)
        assert (close.state, close.passing) == (State.REFUSED, True)
        assert f"answers in protocol {answered}, and was offered 1:" in close.reason


def test_the_later_schema_of_these_tests_is_another_one() -> None:
    """Or they would prove nothing."""
    assert b"GPL" in RECORDS[MARKET]
    assert kind_of(AppRecord) == "app"
    later_market_record = later_record(later("MarketRecord")(name="m"))
    assert len(later_market_record) > len(encode(market("m")))
    assert FromSource.FromString(later_chat()).WhichOneof("message") is None
