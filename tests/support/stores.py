"""A store under test, and what its operator can do to it."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from federation.etcd.client import EtcdClient
from federation.etcd.store import EtcdStore
from federation.memory import MemoryStore
from federation.store import Revision, Store, Txn
from fedmarket.pb.etcd import rpc_pb2 as rpc

PAGE_KEYS = 20
"""Keys of a page in the stores under test: few, so that a snapshot has several."""


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


async def put(store: Store, key: str, value: bytes = b"v", lease: int = 0) -> int:
    """Put one key, whatever it holds; return the revision."""
    return (await store.txn(Txn({}, puts={key: value}, lease=lease))).revision


async def take(watch: AsyncGenerator[Revision, None], count: int) -> list[Revision]:
    """Return the next `count` revisions of a watch."""
    return [await anext(watch) for _ in range(count)]


class Follower:
    """Collects what a watch yields; run again, it goes on after what it has."""

    def __init__(self, store: Store, prefix: str, start_revision: int) -> None:
        self.seen: list[Revision] = []
        self._store = store
        self._prefix = prefix
        self._start = start_revision

    async def run(self) -> None:
        start = self.seen[-1].revision + 1 if self.seen else self._start
        async with aclosing(self._store.watch(self._prefix, start)) as watch:
            async for revision in watch:
                self.seen.append(revision)

    def saw(self, key: str) -> bool:
        return any(change.key == key for revision in self.seen for change in revision.changes)


async def history(store: Store, prefix: str, start: int, last: int) -> list[Revision]:
    """Read what happened with a fresh watch that nothing disturbs."""
    revisions: list[Revision] = []
    async with aclosing(store.watch(prefix, start)) as watch:
        while not revisions or revisions[-1].revision < last:
            revisions.append(await anext(watch))
    return revisions


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
