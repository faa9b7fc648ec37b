"""Notes of requests: written with the commit that makes the change, or not at all."""

import asyncio
from collections.abc import Callable

import pytest

from federation.commit import MAX_OPERATIONS
from federation.draft import Draft, Repeated
from federation.memory import MemoryStore, Moment
from federation.requests import NEVER_MADE, RequestId, Requests, Ticket
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import BadInput, NotHome, Refused
from fedmarket.pb.fedmarket.v1.peer_pb2 import Refusal
from fedmarket.pb.fedmarket.v1.record_pb2 import MarketRecord
from tests.support.federation import Zone, names

DIGEST = b"what was asked".ljust(32)


def requests(zone: Zone) -> Requests:
    return Requests(zone.store, zone.keyspace, clock=lambda: 1000.0)


def ticket(zone: Zone, number: int = 0) -> Ticket:
    return requests(zone).ticket(request(number), DIGEST)


def request(number: int = 0) -> RequestId:
    return RequestId.of(7, f"request-{number:08}")


def creating(name: str, noted: Ticket) -> Callable[[Draft], int]:
    def change(draft: Draft) -> int:
        record_id = draft.create(MarketRecord(name=name))
        noted.made(draft, record_id)
        return record_id

    return change


async def test_a_note_is_there_with_the_change_and_not_in_the_catalog() -> None:
    async with Zone(0) as zone:
        made = (await zone.writer.commit(creating("a", ticket(zone)))).value
        found = await requests(zone).find(request())
        head = await zone.store.get(zone.keyspace.own + "head")
        assert found is not None
        assert head is not None
        record, revision = found
        assert (record.id, record.time, record.running, record.change) == (made, 1000, False, DIGEST)
        assert revision == head.mod_revision
        assert names(zone.own) == {f"market/{made}": "a"}


async def test_one_request_that_comes_twice_at_once_makes_one_change() -> None:
    async with Zone(0) as zone:
        outcome = await asyncio.gather(
            zone.writer.commit(creating("a", ticket(zone))),
            zone.writer.commit(creating("b", ticket(zone))),
            zone.writer.commit(creating("c", ticket(zone, 1))),
            return_exceptions=True,
        )
        assert isinstance(outcome[1], Repeated)
        assert sorted(names(zone.own).values()) == ["a", "c"]


async def test_one_request_that_comes_to_two_agents_makes_one_change_and_fails_no_neighbour() -> None:
    store = MemoryStore()
    async with Zone(0, store) as one, Zone(0, store) as other:
        await one.writer.commit(creating("a", ticket(one)))
        await other.own.wait_for(one.own.pair, 5)
        outcome = await asyncio.gather(
            other.writer.commit(creating("b", ticket(other))),
            other.create("neighbour"),
            return_exceptions=True,
        )
        assert isinstance(outcome[0], Repeated)
        assert sorted(names(other.own).values()) == ["a", "neighbour"]


async def test_a_request_that_was_refused_is_never_applied_though_its_commit_is_on_its_way() -> None:
    held, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MemoryStore):
        async def txn(self, txn: Txn):  # type: ignore[no-untyped-def]
            if any("/request/" in key for key in txn.puts) and txn.not_newer:
                held.set()
                await go_on.wait()
            return await super().txn(txn)

    store = Slow()
    async with Zone(0, store) as zone:
        change = asyncio.create_task(zone.writer.commit(creating("late", ticket(zone))))
        await held.wait()
        settled = await requests(zone).refuse(request(), NEVER_MADE)
        go_on.set()
        with pytest.raises(Repeated):
            await change
        assert settled.refusal == NEVER_MADE
        assert names(zone.own) == {}


async def test_settling_a_request_that_was_made_says_so_and_changes_nothing() -> None:
    async with Zone(0) as zone:
        made = (await zone.writer.commit(creating("a", ticket(zone)))).value
        settled = await requests(zone).refuse(request(), NEVER_MADE)
        assert (settled.HasField("refusal"), settled.id) == (False, made)


async def test_what_has_begun_ends_by_its_own_commits_only() -> None:
    refusal = Refusal(code="refused", text="the directory cannot be written")
    async with Zone(0) as zone:
        mine = ticket(zone)
        await zone.writer.commit(lambda draft: mine.begun(draft, 100))
        assert (await requests(zone).refuse(request(), NEVER_MADE)).running
        await zone.writer.commit(lambda draft: mine.refused(draft, refusal))
        assert (await requests(zone).refuse(request(), NEVER_MADE)).refusal == refusal


async def test_what_has_begun_is_made_when_its_last_commit_is() -> None:
    async with Zone(0) as zone:
        mine = ticket(zone)
        await zone.writer.commit(lambda draft: mine.begun(draft, 100))
        await zone.writer.commit(lambda draft: mine.ended(draft, 100))
        found = await requests(zone).find(request())
        assert found is not None
        assert (found[0].running, found[0].id) == (False, 100)


async def test_an_answer_that_is_lost_does_not_make_a_change_twice() -> None:
    lose = True

    def fault(txn: Txn, moment: Moment) -> None:
        nonlocal lose
        if lose and moment == "after" and txn.not_newer:
            lose = False
            raise StoreUnavailable("no answer")

    async with Zone(0, MemoryStore(fault)) as zone:
        made = (await zone.writer.commit(creating("a", ticket(zone)))).value
        assert names(zone.own) == {f"market/{made}": "a"}
        with pytest.raises(Repeated):
            await zone.writer.commit(creating("b", ticket(zone)))


async def test_notes_count_as_operations_of_the_commit() -> None:
    async with Zone(0) as zone:
        before = zone.own.pair[1]
        await asyncio.gather(*(zone.writer.commit(creating(f"m{n}", ticket(zone, n))) for n in range(MAX_OPERATIONS)))
        assert len(names(zone.own)) == MAX_OPERATIONS
        assert zone.own.pair[1] - before >= 3


async def test_a_change_that_raises_notes_nothing() -> None:
    def refused(draft: Draft) -> None:
        ticket(zone).made(draft, 1)
        raise Refused("no")

    async with Zone(0) as zone:
        with pytest.raises(Refused):
            await zone.writer.commit(refused)
        assert await requests(zone).find(request()) is None


async def test_a_note_outside_this_zones_requests_is_refused() -> None:
    async with Zone(0) as zone:
        for key in (
            "/fedmarket/1/catalog/7/market/7000100",
            "/fedmarket/1/zone/7/request/0/x",
            zone.keyspace.own + "x",
        ):
            with pytest.raises(NotHome, match="no place for a note"):
                await zone.writer.commit(lambda draft, key=key: draft.note(key, b"x", first=True))  # type: ignore[misc]


@pytest.mark.parametrize(
    "text", ["", "short", "x" * 65, "with/slash-and-more", "with space-and-more", "ümlaut-ümlaut-ümlaut"]
)
def test_what_is_no_request_id_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match="request id"):
        RequestId.of(0, text)
