"""The store in memory, put back from a backup: as etcd is, seen through its client."""

import asyncio

import pytest

from federation.memory import MemoryStore
from federation.store import Change, Revision, Txn, WentBack


async def put(store: MemoryStore, key: str, value: bytes) -> int:
    return (await store.txn(Txn({}, puts={key: value}))).revision


async def test_a_store_that_was_put_back_holds_what_it_held_and_its_revision_goes_back() -> None:
    store = MemoryStore()
    revision = await put(store, "a", b"1")
    backup = store.backup()
    await put(store, "a", b"2")
    await put(store, "b", b"3")
    store.restore(backup)
    found = await store.snapshot("")
    assert found.revision == revision
    assert [(item.key, item.value, item.mod_revision) for item in found.items] == [("a", b"1", revision)]
    assert await put(store, "c", b"4") == revision + 1


async def test_a_watch_that_has_delivered_what_is_gone_says_so_even_if_the_store_has_come_further_since() -> None:
    store = MemoryStore()
    await put(store, "a", b"1")
    backup = store.backup()
    watch = store.watch("", await put(store, "a", b"2"))
    assert (await anext(watch)).changes == [Change("a", b"2")]
    store.restore(backup)
    for value in (b"3", b"4", b"5"):
        await put(store, "a", value)
    with pytest.raises(WentBack):
        await anext(watch)


async def test_a_watch_that_waits_is_told_at_once_that_the_store_was_put_back() -> None:
    store = MemoryStore()
    await put(store, "a", b"1")
    backup = store.backup()
    waiting = asyncio.ensure_future(anext(store.watch("", await put(store, "a", b"2") + 1)))
    await asyncio.sleep(0)
    store.restore(backup)
    with pytest.raises(WentBack):
        await asyncio.wait_for(waiting, 5)


async def test_a_watch_that_had_come_to_the_backup_exactly_goes_on() -> None:
    store = MemoryStore()
    watch = store.watch("", await put(store, "a", b"1"))
    first = await anext(watch)
    backup = store.backup()
    store.restore(backup)
    revision = await put(store, "a", b"2")
    assert first.revision + 1 == revision
    assert await anext(watch) == Revision(revision, [Change("a", b"2")])


async def test_a_lease_that_was_taken_after_the_backup_is_lost_and_one_from_before_holds_its_keys() -> None:
    store = MemoryStore()
    async with store.lease(5) as before:
        await store.txn(Txn({}, puts={"old": b""}, lease=before.id))
        backup = store.backup()
        async with store.lease(5) as after:
            await store.txn(Txn({}, puts={"new": b""}, lease=after.id))
            store.restore(backup)
            assert after.lost
            assert not before.lost
            assert [item.key for item in (await store.snapshot("")).items] == ["old"]
    assert (await store.snapshot("")).items == []


async def test_what_was_bound_to_a_lease_that_has_ended_since_the_backup_does_not_come_back() -> None:
    store = MemoryStore()
    async with store.lease(5) as lease:
        await store.txn(Txn({}, puts={"held": b""}, lease=lease.id))
        backup = store.backup()
    store.restore(backup)
    assert (await store.snapshot("")).items == []
