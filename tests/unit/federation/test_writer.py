"""The writer: group commit, rules at exactly one head, and answers that are lost."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from federation.draft import Draft
from federation.keys import HEAD
from federation.memory import MemoryStore, Moment
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import AlreadyExists, NotHome, OutcomeUnknown, Refused, TooLarge, Unavailable
from fedmarket.pb.fedmarket.v1.record_pb2 import MarketRecord
from tests.support.federation import Zone, names


async def test_changes_at_once_share_a_commit() -> None:
    async with Zone(0) as zone:
        before = zone.own.pair
        ids = await asyncio.gather(*(zone.create(f"m{n}") for n in range(50)))
        assert sorted(ids) == list(range(100, 150))
        assert zone.own.pair[1] - before[1] <= 3
        assert len(names(zone.own)) == 50


async def test_more_changes_than_one_commit_takes_go_into_several() -> None:
    async with Zone(7) as zone:
        ids = await asyncio.gather(*(zone.create(f"m{n}") for n in range(350)))
        assert sorted(ids) == [7_000_100 + n for n in range(350)]
        assert zone.own.state is not None
        assert zone.own.state.head.head.count == 350


async def test_a_change_that_raises_leaves_no_trace_and_does_not_fail_its_neighbours() -> None:
    def refused(draft: Draft) -> None:
        draft.create(MarketRecord(name="never"))
        raise Refused("no")

    async with Zone(0) as zone:
        outcome = await asyncio.gather(
            zone.create("a"), zone.writer.commit(refused), zone.create("b"), return_exceptions=True
        )
        assert isinstance(outcome[1], Refused)
        assert (outcome[0], outcome[2]) == (100, 101)
        assert sorted(names(zone.own).values()) == ["a", "b"]


async def test_a_rule_sees_what_the_same_commit_has_changed_before_it() -> None:
    def unique(name: str) -> Callable[[Draft], int]:
        def change(draft: Draft) -> int:
            if draft.named(MarketRecord, name):
                raise AlreadyExists(name)
            return draft.create(MarketRecord(name=name))

        return change

    async with Zone(0) as zone:
        outcome = await asyncio.gather(*(zone.writer.commit(unique("same")) for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(o, AlreadyExists) for o in outcome) == 19
        assert list(names(zone.own).values()) == ["same"]


async def test_what_was_committed_is_read_at_once() -> None:
    async with Zone(0) as zone:
        for n in range(20):
            record_id = await zone.create(f"m{n}")
            assert zone.own.tree.get(f"market/{record_id}") is not None
            assert zone.own.index.named("market", f"m{n}") == {record_id}


def put(key: str) -> Callable[[Draft], None]:
    """Return a change that writes a key behind the back of the draft's own checks."""
    return lambda draft: draft._new.__setitem__(key, b"x")


async def test_a_foreign_key_is_refused_by_the_commit_builder() -> None:
    async with Zone(0) as zone:
        before = zone.store.revision
        for foreign in ("app/100000100", "zone/100"):
            with pytest.raises(NotHome):
                await zone.writer.commit(put(foreign))
        for hostile in ("../100/app/100000100", "head", "lost/1/app/100", "catalog/100/app/100000100"):
            with pytest.raises(NotHome):
                await zone.writer.commit(put(hostile))
        assert zone.store.revision == before


async def test_an_oversized_record_is_refused_and_nothing_changes() -> None:
    async with Zone(0) as zone:
        with pytest.raises(TooLarge, match="262144"):
            await zone.create("x" * 300_000)
        assert names(zone.own) == {}
        assert await zone.create("small") == 100


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_lost_answer_is_found_out(moment: str) -> None:
    lost: list[Txn] = []

    def fault(txn: Txn, at: Moment) -> None:
        if at == moment and not lost and any("/market/" in key for key in txn.puts):
            lost.append(txn)
            raise StoreUnavailable("etcd did not answer")

    async with Zone(0, MemoryStore(fault)) as zone:
        if moment == "after":
            assert await zone.create("m") == 100
        else:
            with pytest.raises(Unavailable, match="nothing was changed"):
                await zone.create("m")
        assert lost
        expected = {"market/100": "m"} if moment == "after" else {}
        assert names(zone.own) == expected
        await zone.create("later")
        assert set(names(zone.own).values()) == {*expected.values(), "later"}


async def test_an_answer_that_stays_lost_is_unknown() -> None:
    down = False

    def fault(txn: Txn, at: Moment) -> None:
        if down:
            raise StoreUnavailable("etcd did not answer")

    store = MemoryStore(fault)
    async with Zone(0, store) as zone:
        object.__setattr__(zone.writer._settings, "resolve_seconds", 0.05)
        down = True
        with pytest.raises(OutcomeUnknown):
            await zone.create("m")
        down = False
        assert await zone.create("n") == 100


async def test_two_agents_of_one_zone_write_the_same_catalog() -> None:
    store = MemoryStore()
    async with Zone(0, store) as one, Zone(0, store) as two:
        ids = await asyncio.gather(*(zone.create(f"m{n}") for n in range(60) for zone in (one, two)))
        assert sorted(ids) == list(range(100, 220))
        await two.own.wait_for(one.own.pair, 5)
        await one.own.wait_for(two.own.pair, 5)
        assert names(one.own) == names(two.own)
        assert len(names(one.own)) == 120


async def test_a_record_changed_by_hand_in_etcd_stops_writes_and_not_reads() -> None:
    async with Zone(0) as zone:
        await zone.create("m")
        await zone.store.txn(Txn({}, puts={zone.keyspace.own + "market/100": b"rotten"}))
        while not zone.own.fault:
            await zone.own.pulse.wait()
        with pytest.raises(Refused, match="repair"):
            await zone.create("n")
        assert names(zone.own) == {"market/100": "m"}


async def test_each_revision_moves_the_head_by_exactly_one() -> None:
    async with Zone(0) as zone:
        await asyncio.gather(*(zone.create(f"m{n}") for n in range(5)))
        await zone.rename(101, "other")
        await zone.delete(102)
        seqs = []
        async for revision in zone.store.watch(zone.keyspace.own, 1):
            assert any(change.key == zone.keyspace.own + HEAD for change in revision.changes)
            seqs.append(revision.revision)
            if revision.revision == zone.store.revision:
                break
        assert len(seqs) == zone.own.pair[1]


async def test_a_writer_that_has_a_rival_lets_it_see_each_commit_before_the_next() -> None:
    store = MemoryStore()
    async with Zone(0, store) as one, Zone(0, store) as two:
        two.origin = replace(two.origin, agent="another agent")
        two.writer._origin = two.origin
        await two.create("of the rival")
        await one.own.wait_for(two.own.pair, 5)
        one._running[0].cancel()  # what it writes from now on does not come back to it
        await asyncio.wait([one._running[0]])
        await one.create("first")
        second = asyncio.create_task(one.create("second"))
        await asyncio.sleep(0.05)
        assert not second.done()
        one._running[0] = asyncio.create_task(one.own.follow(store))
        await second
        assert sorted(names(one.own).values()) == ["first", "of the rival", "second"]


async def test_a_writer_without_a_rival_waits_for_no_echo() -> None:
    async with Zone(0) as zone:
        zone._running[0].cancel()
        await asyncio.wait([zone._running[0]])
        for n in range(5):
            await zone.create(f"m{n}")
