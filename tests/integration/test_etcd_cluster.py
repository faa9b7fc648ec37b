"""The store on an etcd of three members with TLS, while members are lost, frozen, and too few to agree."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from typing import Self

import pytest

from federation.etcd.client import Settings
from federation.etcd.store import EtcdStore
from federation.store import Revision, Store, StoreUnavailable, Txn
from fedmarket.retry import Backoff
from tests.support.etcd import VERSIONS
from tests.support.etcd_cluster import EtcdCluster, Member
from tests.support.stores import put
from tests.support.waiting import BOUND_SECONDS, eventually

USER = "agent"
IMPATIENT = Settings(
    call_seconds=1.0,
    keepalive_seconds=5.0,
    keepalive_timeout_seconds=1.0,
    progress_seconds=0.5,
    silence_seconds=0.5,
    reconnect=Backoff(first_seconds=0.05, longest_seconds=0.2),
)
STEP = 3
"""Transactions that are watched after each fault and after each cure."""


@pytest.fixture(scope="module", params=VERSIONS)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One cluster for all tests here, which leave it whole."""
    cluster = EtcdCluster(tmp_path_factory.mktemp("cluster"), [USER], request.param)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
async def store(cluster: EtcdCluster) -> AsyncIterator[Store]:
    async with cluster.client(USER, IMPATIENT) as client:
        yield EtcdStore(client)


class Chain:
    """Guarded transactions without end, each on top of the one before, and a watch that sees them. Use as a context.

    An attempt whose outcome is unknown is repeated under the same guard, so that it is applied once at most.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._tip = prefix + "tip"
        self._ended = asyncio.Event()
        self.acknowledged: list[tuple[int, int]] = []
        """Number and revision of each transaction, in order."""
        self.seen: list[tuple[int, int]] = []
        """The same, as the watch told them."""

    async def __aenter__(self) -> Self:
        start = (await self._store.snapshot(self._prefix)).revision + 1
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._writing = self._tasks.create_task(self._write())
        self._watching = self._tasks.create_task(self._watch(start))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ended.set()
        if exc[0] is None:
            await self._writing
            await eventually(lambda: len(self.seen) >= len(self.acknowledged))
        self._writing.cancel()
        self._watching.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def advance(self, count: int) -> None:
        """Return when `count` more transactions than now have been acknowledged and seen."""
        target = len(self.acknowledged) + count
        await eventually(lambda: min(len(self.acknowledged), len(self.seen)) >= target)

    async def _write(self) -> None:
        number, tip = 0, 0
        while not self._ended.is_set():
            number += 1
            tip = await self._append(number, tip)
            self.acknowledged.append((number, tip))
            await asyncio.sleep(0.01)  # leaves the cores to etcd

    async def _append(self, number: int, tip: int) -> int:
        value = str(number).encode()
        puts = {self._tip: value, f"{self._prefix}{number}": value}
        txn = Txn({self._tip: tip}, puts=puts, read_on_failure=self._tip)
        while True:
            with suppress(StoreUnavailable):
                result = await self._store.txn(txn)
                if result.succeeded:
                    return result.revision
                assert result.current is not None
                assert result.current.value == value, "somebody else's transaction, or one of ours came twice"
                return result.current.mod_revision
            await asyncio.sleep(0.05)

    async def _watch(self, start: int) -> None:
        async with aclosing(self._store.watch(self._prefix, start)) as revisions:
            async for revision in revisions:
                self.seen.append((self._number(revision), revision.revision))

    def _number(self, revision: Revision) -> int:
        changes = {change.key: change.value for change in revision.changes}
        value = changes[self._tip]
        assert value is not None
        assert changes == {self._tip: value, f"{self._prefix}{value.decode()}": value}, "a revision came in parts"
        return int(value)


async def disturb(
    cluster: EtcdCluster,
    store: Store,
    prefix: str,
    fault: Callable[[Member], None],
    cure: Callable[[Member], Awaitable[None]],
) -> None:
    """Let a fault befall every member in turn, the leader last, and so whichever the watch sits on."""
    async with Chain(store, prefix) as chain:
        for member in await cluster.by_rank(USER):
            fault(member)
            try:
                await chain.advance(STEP)
            finally:
                await cure(member)
            await chain.advance(STEP)
    assert chain.seen == chain.acknowledged, "an event was lost, came twice, or tells of another revision"
    assert [number for number, _ in chain.seen] == list(range(1, len(chain.seen) + 1))
    stored = {item.key: item.mod_revision for item in (await store.snapshot(prefix)).items}
    assert stored == {prefix + "tip": chain.seen[-1][1]} | {f"{prefix}{n}": revision for n, revision in chain.seen}


async def test_nothing_is_lost_or_doubled_while_each_member_in_turn_is_killed(
    cluster: EtcdCluster, store: Store, prefix: str
) -> None:
    await disturb(cluster, store, prefix, Member.kill, Member.restart)


async def test_nothing_is_lost_or_doubled_while_each_member_in_turn_is_frozen(
    cluster: EtcdCluster, store: Store, prefix: str
) -> None:
    async def thaw(member: Member) -> None:
        member.resume()

    await disturb(cluster, store, prefix, Member.pause, thaw)


async def test_without_a_quorum_every_call_ends_and_with_one_all_goes_on(
    cluster: EtcdCluster, store: Store, prefix: str
) -> None:
    before = await put(store, prefix + "before")
    lost = cluster.members[:2]
    async with aclosing(store.watch(prefix, before)) as watch:
        assert (await anext(watch)).revision == before
        for member in lost:
            member.kill()
        async with asyncio.timeout(BOUND_SECONDS):
            calls = store.get(prefix + "before"), store.snapshot(prefix), put(store, prefix + "during"), leased(store)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * len(calls)

        await lost[0].restart()
        after = await retried(lambda: put(store, prefix + "after"))
        seen = [await anext(watch)]
        while seen[-1].revision < after:
            seen.append(await anext(watch))
        await lost[1].restart()
    # What was sent without a quorum may have been applied later. What was acknowledged is there, and was seen once.
    told = [change.key for revision in seen for change in revision.changes]
    assert told.count(prefix + "after") == 1
    assert set(told) <= {prefix + "during", prefix + "after"}
    stored = {item.key for item in (await store.snapshot(prefix)).items}
    assert stored == {prefix + "before", *told}


async def leased(store: Store) -> None:
    async with store.lease(10):
        pass


async def retried(call: Callable[[], Awaitable[int]]) -> int:
    """Return what the call does once the store is back."""
    async with asyncio.timeout(BOUND_SECONDS):
        while True:
            with suppress(StoreUnavailable):
                return await call()
            await asyncio.sleep(0.05)
