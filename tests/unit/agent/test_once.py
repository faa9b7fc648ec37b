"""Each request is made once, and what it came to stays so."""

import asyncio
from collections.abc import Callable

import pytest

from federation.draft import Draft
from federation.memory import MemoryStore, Moment
from federation.requests import RequestId, Requests, Ticket, refusal_of
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import BadInput, FedmarketError, NoSpace, NotFound, OutcomeUnknown, Refused, Unavailable
from fedmarket.pb.fedmarket.v1.change_pb2 import Change, Rename, Verb
from fedmarket.pb.fedmarket.v1.peer_pb2 import Refusal
from fedmarket.pb.fedmarket.v1.record_pb2 import MarketRecord
from tests.support.federation import Zone, names
from zone_agent.services.once import Once

REQUEST = RequestId.of(7, "request-00000001")


def once(zone: Zone) -> Once:
    return Once(Requests(zone.store, zone.keyspace), 5.0)


def renaming(name: str, record_id: int = 100) -> Change:
    return Change(kind="market", id=record_id, verb=Verb(rename=Rename(name=name)))


class Work:
    """Creates a market, and counts how often."""

    def __init__(self, zone: Zone, name: str = "a") -> None:
        self.zone = zone
        self.name = name
        self.times = 0

    async def __call__(self, ticket: Ticket) -> int:
        self.times += 1

        def change(draft: Draft) -> int:
            record_id = draft.create(MarketRecord(name=self.name))
            ticket.made(draft, record_id)
            return record_id

        return (await self.zone.writer.commit(change)).value


async def test_asking_again_makes_no_second_change_and_answers_as_the_first_time() -> None:
    async with Zone(0) as zone:
        work = Work(zone)
        made = [await once(zone).make(REQUEST, renaming("x"), zone.own, work) for _ in range(3)]
        assert (made, work.times, list(names(zone.own).values())) == ([100, 100, 100], 1, ["a"])


async def test_asking_twice_at_once_makes_one_change() -> None:
    async with Zone(0) as zone:
        agent, work = once(zone), Work(zone)
        made = await asyncio.gather(*(agent.make(REQUEST, renaming("x"), zone.own, work) for _ in range(5)))
        assert (made, work.times) == ([100] * 5, 1)


async def test_two_agents_that_are_asked_at_once_make_one_change_that_both_see() -> None:
    store = MemoryStore()
    async with Zone(0, store) as one, Zone(0, store) as other:
        works = [Work(one), Work(other)]
        made = await asyncio.gather(*(once(w.zone).make(REQUEST, renaming("x"), w.zone.own, w) for w in works))
        assert made == [100, 100]
        assert list(names(one.own).values()) == list(names(other.own).values()) == ["a"]


async def test_the_same_id_for_another_change_is_an_error() -> None:
    async with Zone(0) as zone:
        agent = once(zone)
        await agent.make(REQUEST, renaming("x"), zone.own, Work(zone))
        for other in (renaming("y"), renaming("x", 101)):
            with pytest.raises(BadInput, match="another change"):
                await agent.make(REQUEST, other, zone.own, Work(zone))


async def test_a_refusal_stays_one_though_the_reason_has_gone() -> None:
    async def refuse(ticket: Ticket) -> int:
        raise NotFound("there is no such thing")

    async with Zone(0) as zone:
        agent = once(zone)
        with pytest.raises(NotFound, match="no such thing"):
            await agent.make(REQUEST, renaming("x"), zone.own, refuse)
        with pytest.raises(NotFound, match="no such thing"):
            await agent.make(REQUEST, renaming("x"), zone.own, Work(zone))
        assert names(zone.own) == {}
        settled = await agent.settle(REQUEST)
        assert settled.refusal.text == "there is no such thing"


async def test_settling_what_was_never_asked_bars_it_for_ever() -> None:
    async with Zone(0) as zone:
        agent = once(zone)
        assert (await agent.settle(REQUEST)).HasField("refusal")
        with pytest.raises(Exception, match="never will be"):
            await agent.make(REQUEST, renaming("x"), zone.own, Work(zone))
        assert names(zone.own) == {}


async def test_settling_waits_for_what_is_under_way_here() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async with Zone(0) as zone:
        agent = once(zone)
        work = Work(zone)

        async def slow(ticket: Ticket) -> int:
            started.set()
            await go_on.wait()
            return await work(ticket)

        making = asyncio.create_task(agent.make(REQUEST, renaming("x"), zone.own, slow))
        await started.wait()
        settling = asyncio.create_task(agent.settle(REQUEST))
        await asyncio.sleep(0)
        go_on.set()
        assert (await settling).id == await making == 100


async def test_what_has_begun_is_neither_made_nor_refused_until_it_ends() -> None:
    async with Zone(0) as zone:
        agent = once(zone)

        async def begin_and_die(ticket: Ticket) -> int:
            await zone.writer.commit(lambda draft: ticket.begun(draft, 100))
            raise Unavailable("the agent was killed here")

        for _ in range(2):
            with pytest.raises(Unavailable):
                await agent.make(REQUEST, renaming("x"), zone.own, begin_and_die)
            with pytest.raises(Unavailable, match="still at work"):
                await agent.settle(REQUEST)


async def test_a_last_step_that_fails_refuses_what_has_begun_if_its_commit_says_so() -> None:
    async with Zone(0) as zone:
        agent = once(zone)
        noted = Refusal(code="refused", text="its bytes cannot be removed")

        async def fail(ticket: Ticket) -> int:
            await zone.writer.commit(lambda draft: ticket.begun(draft, 100))
            await zone.writer.commit(lambda draft: ticket.refused(draft, noted))
            raise Refused(noted.text)

        for _ in range(2):
            with pytest.raises(Refused, match="its bytes cannot be removed"):
                await agent.make(REQUEST, renaming("x"), zone.own, fail)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_an_outcome_that_the_writer_cannot_find_out_is_made_definite_by_the_note(moment: Moment) -> None:
    async with Zone(0) as zone:
        agent, work = once(zone), Work(zone)

        async def cut(ticket: Ticket) -> int:
            if moment == "after":
                await work(ticket)
            raise OutcomeUnknown("the answer was lost")

        if moment == "after":
            assert await agent.make(REQUEST, renaming("x"), zone.own, cut) == 100
        else:
            with pytest.raises(Refused, match="it was not"):
                await agent.make(REQUEST, renaming("x"), zone.own, cut)
        assert len(names(zone.own)) == (moment == "after")


async def test_a_refusal_that_cannot_be_noted_is_unknown() -> None:
    down = False

    def fault(txn: Txn, moment: Moment) -> None:
        if down and any("/request/" in key for key in txn.puts):
            raise StoreUnavailable("etcd does not answer")

    async def refuse(ticket: Ticket) -> int:
        nonlocal down
        down = True
        raise NotFound("there is no such thing")

    async with Zone(0, MemoryStore(fault)) as zone:
        with pytest.raises(OutcomeUnknown, match="ask again with the same request id"):
            await once(zone).make(REQUEST, renaming("x"), zone.own, refuse)


async def test_a_full_etcd_does_not_hide_why_a_request_is_refused() -> None:
    full = False

    def fault(txn: Txn, moment: Moment) -> None:
        if full and any("/request/" in key for key in txn.puts):
            raise NoSpace("etcd is full")

    async def refuse(ticket: Ticket) -> int:
        nonlocal full
        full = True
        raise NotFound("there is no such thing")

    async with Zone(0, MemoryStore(fault)) as zone:
        with pytest.raises(NotFound, match="no such thing"):
            await once(zone).make(REQUEST, renaming("x"), zone.own, refuse)


@pytest.mark.parametrize("error", [Unavailable("its disk does not answer"), OutcomeUnknown("its answer was lost")])
async def test_what_is_noted_as_refused_is_definite_whatever_the_reason_was(error: FedmarketError) -> None:
    async with Zone(0) as zone:

        async def fail(ticket: Ticket) -> int:
            await zone.writer.commit(lambda draft: ticket.begun(draft, 100))
            await zone.writer.commit(lambda draft: ticket.refused(draft, refusal_of(error)))
            raise error

        agent = once(zone)
        with pytest.raises(FedmarketError):
            await agent.make(REQUEST, renaming("x"), zone.own, fail)
        with pytest.raises(Refused, match=error.message):
            await agent.make(REQUEST, renaming("x"), zone.own, fail)


async def test_a_caller_that_goes_away_halves_nothing() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async with Zone(0) as zone:
        agent, work = once(zone), Work(zone)

        async def slow(ticket: Ticket) -> int:
            started.set()
            await go_on.wait()
            return await work(ticket)

        call: Callable[[], asyncio.Task[int]] = lambda: asyncio.create_task(  # noqa: E731
            agent.make(REQUEST, renaming("x"), zone.own, slow)
        )
        first = call()
        await started.wait()
        second = call()
        first.cancel()
        await asyncio.sleep(0)
        go_on.set()
        assert await second == 100
        with pytest.raises(asyncio.CancelledError):
            await first
        assert work.times == 1
