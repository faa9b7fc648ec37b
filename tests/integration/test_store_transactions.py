"""What every store does with a transaction, whether it is etcd or in memory."""

import asyncio
from contextlib import aclosing

import pytest

from federation.store import Change, KeyValue, Revision, Store, Txn, TxnResult
from fedmarket.errors import Internal, TooLarge
from tests.support.stores import put


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
