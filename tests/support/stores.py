"""A store under test, and what its operator can do to it."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from federation.etcd.client import EtcdClient
from federation.etcd.store import EtcdStore
from federation.memory import MemoryStore
from federation.store import Store, Txn
from fedmarket.pb.etcd import rpc_pb2 as rpc


@dataclass(frozen=True)
class Subject:
    """One store, and the hand that compacts it and ends leases in it."""

    store: Store
    compact: Callable[[int], Awaitable[None]]
    end_lease: Callable[[int], Awaitable[None]]


def etcd_subject(client: EtcdClient) -> Subject:
    async def end_lease(lease_id: int) -> None:
        await client.call(client.lease.LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease_id), doing="revoke a lease")

    return Subject(EtcdStore(client), lambda revision: compact(client, revision), end_lease)


def memory_subject() -> Subject:
    store = MemoryStore()

    async def compact(revision: int) -> None:
        store.compact(revision)

    async def end_lease(lease_id: int) -> None:
        store.expire(lease_id)

    return Subject(store, compact, end_lease)


async def compact(client: EtcdClient, revision: int) -> None:
    """Make etcd forget its history before a revision, now."""
    request = rpc.CompactionRequest(revision=revision, physical=True)
    await client.call(client.kv.Compact, request, doing="compact")


async def pass_time(client: EtcdClient, store: Store, prefix: str, seconds: int) -> None:
    """Return when at least `seconds` have passed on etcd's own clock: when a lease that nobody renews has ended."""
    request = rpc.LeaseGrantRequest(TTL=seconds)
    granted = await client.call(client.lease.LeaseGrant, request, doing="grant a lease")
    key = prefix + "clock"
    started = await store.txn(Txn({}, puts={key: b""}, lease=granted.ID))
    async with aclosing(store.watch(key, started.revision + 1)) as watch:
        await anext(watch)
