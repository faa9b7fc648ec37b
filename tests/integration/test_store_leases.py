"""What every store does with a lease, whether it is etcd or in memory."""

from contextlib import aclosing

import pytest

from federation.store import Change, Store, Txn
from fedmarket.errors import NotFound
from tests.support.stores import Subject, put


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
