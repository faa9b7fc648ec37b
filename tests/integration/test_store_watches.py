"""What every store delivers to a watch, whether it is etcd or in memory."""

import asyncio
from contextlib import aclosing

import pytest

from federation.store import Change, Compacted, Revision, Store, Txn
from tests.support.stores import Subject, put, take


async def test_a_watch_yields_each_change_in_order_once(store: Store, prefix: str) -> None:
    start = (await store.snapshot(prefix)).revision + 1
    async with aclosing(store.watch(prefix, start)) as watch:
        first = await put(store, prefix + "a", b"1")
        assert await anext(watch) == Revision(first, [Change(prefix + "a", b"1")])
        second = await put(store, prefix + "a", b"2")
        third = await put(store, prefix + "b", b"3")
        assert await take(watch, 2) == [
            Revision(second, [Change(prefix + "a", b"2")]),
            Revision(third, [Change(prefix + "b", b"3")]),
        ]


async def test_a_watch_begins_in_the_past(store: Store, prefix: str) -> None:
    await put(store, prefix + "before")
    revisions = [await put(store, prefix + key) for key in "abc"]
    async with aclosing(store.watch(prefix, revisions[0])) as watch:
        assert [revision.revision for revision in await take(watch, 3)] == revisions


async def test_a_watch_from_a_revision_that_the_store_has_not_reached_says_so(store: Store, prefix: str) -> None:
    """Who knows such a revision has seen the store before it was put back from a backup."""
    now = (await store.snapshot(prefix)).revision
    async with aclosing(store.watch(prefix, now + 1_000_000)) as watch:
        with pytest.raises(Compacted):
            await anext(watch)


async def test_a_transaction_of_several_keys_is_one_revision(store: Store, prefix: str) -> None:
    start = await put(store, prefix + "old")
    txn = Txn({}, puts={f"{prefix}{number}": b"v" for number in range(9)}, deletes=[prefix + "old"])
    result = await store.txn(txn)
    async with aclosing(store.watch(prefix, start + 1)) as watch:
        revision = await anext(watch)
    assert revision.revision == result.revision
    assert {change.key: change.value for change in revision.changes} == {**txn.puts, prefix + "old": None}
    assert len(revision.changes) == 10


async def test_a_delete_is_a_change_without_a_value(store: Store, prefix: str) -> None:
    start = await put(store, prefix + "a")
    result = await store.txn(Txn({}, deletes=[prefix + "a"]))
    async with aclosing(store.watch(prefix, start + 1)) as watch:
        assert await anext(watch) == Revision(result.revision, [Change(prefix + "a", None)])


async def test_a_put_of_the_same_value_is_a_change(store: Store, prefix: str) -> None:
    start = await put(store, prefix + "a", b"same")
    again = await put(store, prefix + "a", b"same")
    async with aclosing(store.watch(prefix, start + 1)) as watch:
        assert await anext(watch) == Revision(again, [Change(prefix + "a", b"same")])


async def test_a_watch_sees_only_what_is_below_its_prefix(store: Store, prefix: str) -> None:
    start = (await store.snapshot("")).revision + 1
    result = await store.txn(Txn({}, puts={prefix + "in/a": b"v", prefix + "out/a": b"v"}))
    await put(store, prefix + "out/b")
    last = await put(store, prefix + "in/b")
    async with aclosing(store.watch(prefix + "in/", start)) as watch:
        assert await take(watch, 2) == [
            Revision(result.revision, [Change(prefix + "in/a", b"v")]),
            Revision(last, [Change(prefix + "in/b", b"v")]),
        ]


async def test_revisions_are_one_order_over_all_prefixes(store: Store, prefix: str) -> None:
    start = (await store.snapshot(prefix)).revision + 1
    written = [(await put(store, prefix + key), prefix + key) for key in ("x/1", "y/1", "x/2", "y/2")]
    async with (
        aclosing(store.watch(prefix + "x/", start)) as xs,
        aclosing(store.watch(prefix + "y/", start)) as ys,
        aclosing(store.watch(prefix, start)) as both,
    ):
        apart = await take(xs, 2) + await take(ys, 2)
        together = await take(both, 4)
    assert sorted(apart, key=lambda revision: revision.revision) == together
    assert [(revision.revision, revision.changes[0].key) for revision in together] == written


async def test_two_watches_of_one_prefix_see_the_same(store: Store, prefix: str) -> None:
    start = (await store.snapshot(prefix)).revision + 1
    async with aclosing(store.watch(prefix, start)) as one, aclosing(store.watch(prefix, start)) as other:
        for key in "abc":
            await put(store, prefix + key)
        assert await take(one, 3) == await take(other, 3)


async def test_a_watch_that_is_closed_leaves_the_others_alone(store: Store, prefix: str) -> None:
    start = (await store.snapshot(prefix)).revision + 1
    async with aclosing(store.watch(prefix, start)) as stays:
        async with aclosing(store.watch(prefix, start)) as closes:
            first = await put(store, prefix + "a")
            assert (await anext(closes)).revision == first
        second = await put(store, prefix + "b")
        assert [revision.revision for revision in await take(stays, 2)] == [first, second]


async def test_a_watch_that_waits_can_be_cancelled(store: Store, prefix: str) -> None:
    start = (await store.snapshot(prefix)).revision + 1
    async with aclosing(store.watch(prefix, start)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        await put(store, "/elsewhere" + prefix)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_snapshot_then_watch_from_the_next_revision_misses_nothing(store: Store, prefix: str) -> None:
    async def write() -> None:
        for number in range(60):
            await put(store, f"{prefix}{number % 7}", b"%d" % number)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        snapshot = await store.snapshot(prefix)
        state = {item.key: item.value for item in snapshot.items}
        async with aclosing(store.watch(prefix, snapshot.revision + 1)) as watch:
            while b"59" not in state.values():
                for change in (await anext(watch)).changes:
                    assert change.value is not None
                    state[change.key] = change.value
    assert state == {item.key: item.value for item in (await store.snapshot(prefix)).items}


async def test_a_watch_of_compacted_history_says_so(subject: Subject, prefix: str) -> None:
    first = await put(subject.store, prefix + "a")
    last = await put(subject.store, prefix + "b")
    await subject.compact(last)
    async with aclosing(subject.store.watch(prefix, first)) as watch:
        with pytest.raises(Compacted):
            await anext(watch)


async def test_a_watch_that_would_miss_a_compacted_delete_says_so(subject: Subject, prefix: str) -> None:
    await put(subject.store, prefix + "a")
    deleted = (await subject.store.txn(Txn({}, deletes=[prefix + "a"]))).revision
    await subject.compact(deleted)
    async with aclosing(subject.store.watch(prefix, deleted)) as watch:
        with pytest.raises(Compacted):
            await anext(watch)


async def test_a_watch_from_after_the_compaction_goes_on(subject: Subject, prefix: str) -> None:
    compacted = await put(subject.store, prefix + "a")
    await subject.compact(compacted)
    last = await put(subject.store, prefix + "b")
    async with aclosing(subject.store.watch(prefix, compacted + 1)) as watch:
        assert await anext(watch) == Revision(last, [Change(prefix + "b", b"v")])


async def test_a_snapshot_after_a_compaction_is_whole(subject: Subject, prefix: str) -> None:
    revisions = [await put(subject.store, prefix + key) for key in "abc"]
    await subject.compact(revisions[-1])
    assert [item.mod_revision for item in (await subject.store.snapshot(prefix)).items] == revisions
