"""What every store does, whether it is etcd or in memory."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from federation.etcd.client import Settings, connect
from federation.store import Change, Compacted, KeyValue, Revision, Store, Txn, TxnResult
from fedmarket.errors import Internal, NotFound, TooLarge
from tests.support.etcd import EtcdServer
from tests.support.stores import Subject, etcd_subject, memory_subject

PAGE_KEYS = 20


@pytest.fixture(params=["memory", "etcd"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "memory":
        yield memory_subject()
        return
    server: EtcdServer = request.getfixturevalue("etcd_server")
    async with connect([server.endpoint], Settings(page_keys=PAGE_KEYS)) as client:
        yield etcd_subject(client)


@pytest.fixture
def store(subject: Subject) -> Store:
    return subject.store


async def put(store: Store, key: str, value: bytes = b"v", lease: int = 0) -> int:
    """Put one key, whatever it holds; return the revision."""
    return (await store.txn(Txn({}, puts={key: value}, lease=lease))).revision


async def take(watch: AsyncGenerator[Revision, None], count: int) -> list[Revision]:
    """Return the next `count` revisions of a watch."""
    return [await anext(watch) for _ in range(count)]


# Reading


async def test_a_key_that_is_not_there_reads_as_none(store: Store, prefix: str) -> None:
    assert await store.get(prefix + "missing") is None


async def test_a_key_reads_as_it_was_last_put(store: Store, prefix: str) -> None:
    await put(store, prefix + "a", b"old")
    revision = await put(store, prefix + "a", b"new\x00\xff")
    assert await store.get(prefix + "a") == KeyValue(prefix + "a", b"new\x00\xff", revision)


async def test_an_empty_value_is_a_value(store: Store, prefix: str) -> None:
    revision = await put(store, prefix + "a", b"")
    assert await store.get(prefix + "a") == KeyValue(prefix + "a", b"", revision)


async def test_keys_are_any_text(store: Store, prefix: str) -> None:
    key = prefix + "größe/東京/\U0001f5c4"
    revision = await put(store, key)
    assert (await store.snapshot(prefix)).items == [KeyValue(key, b"v", revision)]


async def test_a_snapshot_of_nothing_has_a_revision_from_which_a_watch_can_go_on(store: Store, prefix: str) -> None:
    before = await put(store, "/elsewhere" + prefix)
    snapshot = await store.snapshot(prefix)
    assert list(snapshot.items) == []
    assert snapshot.revision >= before


async def test_a_snapshot_of_more_than_a_page_is_whole_and_in_order(store: Store, prefix: str) -> None:
    keys = [f"{prefix}{number:04}" for number in range(5 * PAGE_KEYS + 1)]
    for start in range(0, len(keys), 100):
        await store.txn(Txn({}, puts=dict.fromkeys(keys[start : start + 100], b"v")))
    snapshot = await store.snapshot(prefix)
    assert [item.key for item in snapshot.items] == keys


async def test_a_snapshot_of_exactly_one_page_is_whole(store: Store, prefix: str) -> None:
    keys = [f"{prefix}{number:04}" for number in range(PAGE_KEYS)]
    await store.txn(Txn({}, puts=dict.fromkeys(keys, b"v")))
    assert [item.key for item in (await store.snapshot(prefix)).items] == keys


async def test_a_snapshot_has_only_what_begins_with_the_prefix(store: Store, prefix: str) -> None:
    for key in ("a", "b/", "b/1", "b/2", "b0", "c"):
        await put(store, prefix + key)
    snapshot = await store.snapshot(prefix + "b/")
    assert [item.key.removeprefix(prefix) for item in snapshot.items] == ["b/", "b/1", "b/2"]


async def test_a_snapshot_of_the_empty_prefix_is_the_whole_store(store: Store, prefix: str) -> None:
    revision = await put(store, prefix + "a")
    assert KeyValue(prefix + "a", b"v", revision) in (await store.snapshot("")).items


async def test_a_snapshot_has_the_revisions_of_its_keys_and_its_own(store: Store, prefix: str) -> None:
    first = await put(store, prefix + "a")
    second = await put(store, prefix + "b")
    snapshot = await store.snapshot(prefix)
    assert [item.mod_revision for item in snapshot.items] == [first, second]
    assert snapshot.revision >= second


# Transactions


async def test_each_change_has_a_greater_revision(store: Store, prefix: str) -> None:
    revisions = [await put(store, prefix + key) for key in "aba"]
    assert revisions == sorted(set(revisions))


async def test_a_transaction_puts_and_deletes_at_one_revision(store: Store, prefix: str) -> None:
    await put(store, prefix + "old")
    result = await store.txn(Txn({}, puts={prefix + "a": b"1", prefix + "b": b"2"}, deletes=[prefix + "old"]))
    assert result.succeeded
    assert (await store.snapshot(prefix)).items == [
        KeyValue(prefix + "a", b"1", result.revision),
        KeyValue(prefix + "b", b"2", result.revision),
    ]


async def test_guard_zero_creates_a_key_once(store: Store, prefix: str) -> None:
    create = Txn({prefix + "a": 0}, puts={prefix + "a": b"mine"})
    assert (await store.txn(create)).succeeded
    assert not (await store.txn(create)).succeeded


async def test_guard_zero_holds_again_after_a_delete(store: Store, prefix: str) -> None:
    await put(store, prefix + "a")
    await store.txn(Txn({}, deletes=[prefix + "a"]))
    assert (await store.txn(Txn({prefix + "a": 0}, puts={prefix + "a": b"again"}))).succeeded


async def test_a_guard_holds_at_the_revision_of_the_last_put_only(store: Store, prefix: str) -> None:
    stale = await put(store, prefix + "a", b"1")
    fresh = await put(store, prefix + "a", b"2")
    assert not (await store.txn(Txn({prefix + "a": stale}, puts={prefix + "a": b"lost update"}))).succeeded
    assert (await store.txn(Txn({prefix + "a": fresh}, puts={prefix + "a": b"3"}))).succeeded


async def test_a_key_may_not_be_newer_than_a_transaction_allows(store: Store, prefix: str) -> None:
    old = await put(store, prefix + "a")
    new = await put(store, prefix + "a")
    for newest, holds in ((old, False), (new, True), (new + 1, True)):
        txn = Txn({}, not_newer={prefix + "a": newest}, puts={f"{prefix}{newest}": b"v"})
        assert (await store.txn(txn)).succeeded is holds
    assert await store.get(f"{prefix}{old}") is None


async def test_a_key_that_is_not_there_is_not_newer(store: Store, prefix: str) -> None:
    txn = Txn({}, not_newer={prefix + "a": 0}, puts={prefix + "a": b"v"})
    assert (await store.txn(txn)).succeeded
    assert not (await store.txn(txn)).succeeded


async def test_one_guard_that_does_not_hold_stops_everything(store: Store, prefix: str) -> None:
    seen = await put(store, prefix + "a")
    before = await store.snapshot(prefix)
    txn = Txn({prefix + "a": seen, prefix + "b": seen}, puts={prefix + "c": b"v"}, deletes=[prefix + "a"])
    result = await store.txn(txn)
    assert not result.succeeded
    assert (await store.snapshot(prefix)).items == before.items


async def test_a_failed_transaction_returns_what_the_key_holds(store: Store, prefix: str) -> None:
    revision = await put(store, prefix + "head", b"theirs")
    txn = Txn({prefix + "head": 0}, puts={prefix + "head": b"mine"}, read_on_failure=prefix + "head")
    result = await store.txn(txn)
    assert result.current == KeyValue(prefix + "head", b"theirs", revision)
    assert result.revision >= revision


async def test_a_failed_transaction_returns_none_for_a_key_that_is_not_there(store: Store, prefix: str) -> None:
    txn = Txn({prefix + "head": 1}, puts={prefix + "head": b"mine"}, read_on_failure=prefix + "head")
    assert not (result := await store.txn(txn)).succeeded
    assert result.current is None


async def test_a_transaction_that_succeeds_reads_nothing(store: Store, prefix: str) -> None:
    txn = Txn({prefix + "a": 0}, puts={prefix + "a": b"v"}, read_on_failure=prefix + "a")
    assert (await store.txn(txn)).current is None


async def test_a_transaction_of_guards_only_tells_whether_they_hold(store: Store, prefix: str) -> None:
    revision = await put(store, prefix + "a")
    assert (await store.txn(Txn({prefix + "a": revision}))).succeeded
    assert not (await store.txn(Txn({prefix + "a": 0}))).succeeded


async def test_deleting_what_is_not_there_is_no_change(store: Store, prefix: str) -> None:
    revision = await put(store, prefix + "a")
    assert (await store.txn(Txn({}, deletes=[prefix + "missing"]))).succeeded
    async with aclosing(store.watch(prefix, revision + 1)) as watch:
        last = await put(store, prefix + "b")
        assert await anext(watch) == Revision(last, [Change(prefix + "b", b"v")])


async def test_of_concurrent_creations_one_succeeds(store: Store, prefix: str) -> None:
    async def create(number: int) -> TxnResult:
        return await store.txn(Txn({prefix + "a": 0}, puts={prefix + "a": b"%d" % number}))

    results = await asyncio.gather(*(create(number) for number in range(10)))
    winner = [number for number, result in enumerate(results) if result.succeeded]
    assert len(winner) == 1
    item = await store.get(prefix + "a")
    assert item is not None
    assert item.value == b"%d" % winner[0]


async def test_128_operations_fit_a_transaction(store: Store, prefix: str) -> None:
    keys = [f"{prefix}{number:03}" for number in range(128)]
    result = await store.txn(Txn(dict.fromkeys(keys, 0), puts=dict.fromkeys(keys, b"v")))
    assert result.succeeded
    assert len((await store.snapshot(prefix)).items) == 128


@pytest.mark.parametrize("kind", ["guards", "conditions", "puts", "deletes", "together"])
async def test_129_operations_are_too_many_and_nothing_is_done(store: Store, prefix: str, kind: str) -> None:
    await put(store, prefix + "000")
    before = await store.snapshot(prefix)
    keys = [f"{prefix}{number:03}" for number in range(129)]
    txn = {
        "guards": Txn(dict.fromkeys(keys, 0), puts={prefix + "a": b"v"}),
        "conditions": Txn({keys[0]: 0}, not_newer=dict.fromkeys(keys[1:], 0), puts={prefix + "a": b"v"}),
        "puts": Txn({}, puts=dict.fromkeys(keys, b"w")),
        "deletes": Txn({}, deletes=keys),
        "together": Txn({}, puts=dict.fromkeys(keys[1:], b"w"), deletes=keys[:1]),
    }[kind]
    with pytest.raises(TooLarge):
        await store.txn(txn)
    assert (await store.snapshot(prefix)).items == before.items


async def test_a_key_cannot_be_written_twice_in_a_transaction(store: Store, prefix: str) -> None:
    for txn in (
        Txn({}, puts={prefix + "a": b"v"}, deletes=[prefix + "a"]),
        Txn({}, deletes=[prefix + "a", prefix + "a"]),
    ):
        with pytest.raises(Internal):
            await store.txn(txn)
    assert await store.get(prefix + "a") is None


# Watches


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


async def test_a_watch_can_begin_in_the_future(store: Store, prefix: str) -> None:
    now = await put(store, prefix + "now")
    async with aclosing(store.watch(prefix, now + 3)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        revisions: list[int] = []
        while not revisions or revisions[-1] < now + 5:  # others may write to the store, too
            revisions.append(await put(store, prefix + "later"))
        due = [revision for revision in revisions if revision >= now + 3]
        seen = [await waiting, *await take(watch, len(due) - 1)]
        assert [revision.revision for revision in seen] == due


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


# Leases


async def test_keys_of_a_lease_go_at_one_revision_when_its_context_ends(store: Store, prefix: str) -> None:
    async with store.lease(60) as lease:
        assert not lease.lost
        await put(store, prefix + "a", lease=lease.id)
        revision = await put(store, prefix + "b", lease=lease.id)
        assert len((await store.snapshot(prefix)).items) == 2
    async with aclosing(store.watch(prefix, revision + 1)) as watch:
        changes = (await anext(watch)).changes
    assert sorted(changes, key=lambda change: change.key) == [Change(prefix + "a", None), Change(prefix + "b", None)]


async def test_a_lease_ends_when_its_context_ends_by_an_error(store: Store, prefix: str) -> None:
    async def fail() -> None:
        async with store.lease(60) as lease:
            await put(store, prefix + "a", lease=lease.id)
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        await fail()
    assert await store.get(prefix + "a") is None


async def test_a_lease_that_ends_early_takes_its_keys_along(subject: Subject, prefix: str) -> None:
    async with subject.store.lease(60) as lease:
        revision = await put(subject.store, prefix + "a", lease=lease.id)
        await put(subject.store, prefix + "b")
        await subject.end_lease(lease.id)
        async with aclosing(subject.store.watch(prefix + "a", revision + 1)) as watch:
            assert (await anext(watch)).changes == [Change(prefix + "a", None)]
        assert await subject.store.get(prefix + "b") is not None


async def test_a_put_under_a_lease_that_has_ended_is_refused(subject: Subject, prefix: str) -> None:
    async with subject.store.lease(60) as lease:
        await subject.end_lease(lease.id)
        with pytest.raises(NotFound):
            await subject.store.txn(Txn({}, puts={prefix + "a": b"v", prefix + "b": b"v"}, lease=lease.id))
    assert (await subject.store.snapshot(prefix)).items == []


async def test_a_put_without_a_lease_unbinds_the_key(store: Store, prefix: str) -> None:
    async with store.lease(60) as lease:
        await put(store, prefix + "a", lease=lease.id)
        await put(store, prefix + "a", b"stays")
    item = await store.get(prefix + "a")
    assert item is not None
    assert item.value == b"stays"


async def test_leases_are_apart(store: Store, prefix: str) -> None:
    async with store.lease(60) as outer:
        async with store.lease(60) as inner:
            assert inner.id != outer.id
            await put(store, prefix + "inner", lease=inner.id)
            await put(store, prefix + "outer", lease=outer.id)
        assert [item.key for item in (await store.snapshot(prefix)).items] == [prefix + "outer"]
