"""Watches of a real etcd that is killed, frozen, filled, compacted and exchanged."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from federation.etcd.client import EtcdClient, Settings, connect
from federation.etcd.store import EtcdStore
from federation.store import Change, Compacted, Revision, StoreUnavailable, Txn
from fedmarket.retry import Backoff, retry
from tests.support.etcd import EtcdFactory, EtcdServer
from tests.support.stores import Follower, compact, history, pass_time
from tests.support.waiting import eventually

SETTINGS = Settings(
    call_seconds=2.0,
    progress_seconds=0.3,
    silence_seconds=0.3,
    reconnect=Backoff(first_seconds=0.02, longest_seconds=0.2),
)


@pytest.fixture
def server(etcd_factory: EtcdFactory) -> EtcdServer:
    return etcd_factory()


@pytest.fixture
async def client(server: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with connect([server.endpoint], SETTINGS) as client:
        yield client


@pytest.fixture
def store(client: EtcdClient) -> EtcdStore:
    return EtcdStore(client)


async def put(store: EtcdStore, key: str, value: bytes = b"v") -> int:
    """Put until it is known to have happened; in an outage perhaps more than once. Return the last revision."""
    result = await retry(lambda: store.txn(Txn({}, puts={key: value})), attempts=1000, backoff=SETTINGS.reconnect)
    return result.revision


async def test_nothing_is_lost_and_nothing_comes_twice_when_etcd_is_killed(
    server: EtcdServer, store: EtcdStore, prefix: str
) -> None:
    start = await put(store, prefix + "first")
    follower = Follower(store, prefix, start)
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follower.run())
        for life in range(3):
            for number in range(20):
                await put(store, f"{prefix}{life}/before/{number}")
            server.kill()
            writing = tasks.create_task(put(store, f"{prefix}{life}/during"))
            await server.restart()
            await writing
            await put(store, f"{prefix}{life}/after")
        await eventually(lambda: follower.saw(f"{prefix}2/after"))
        following.cancel()
    assert follower.seen == await history(store, prefix, start, follower.seen[-1].revision)


async def test_a_catch_up_that_is_interrupted_again_and_again_is_whole(
    server: EtcdServer, store: EtcdStore, prefix: str
) -> None:
    start = (await store.snapshot(prefix)).revision + 1
    for number in range(40):
        last = await put(store, f"{prefix}{number:03}", b"x" * 300_000)
    revisions: list[int] = []
    async with aclosing(store.watch(prefix, start)) as watch:
        while not revisions or revisions[-1] < last:
            revisions.append((await anext(watch)).revision)
            if len(revisions) in (1, 15, 30):
                server.kill()
                await server.restart()
    assert revisions == list(range(start, last + 1))


async def test_revisions_are_whole_when_etcd_sends_them_in_fragments(store: EtcdStore, prefix: str) -> None:
    start = (await store.snapshot(prefix)).revision + 1
    written: list[Revision] = []
    for number in range(12):  # 1.2 MB each, while etcd cuts at about 2 MiB: a cut falls inside most
        puts = {f"{prefix}{part}": bytes([number]) * 400_000 for part in range(3)}
        result = await store.txn(Txn({}, puts=puts))
        written.append(Revision(result.revision, [Change(key, value) for key, value in puts.items()]))
    assert await history(store, prefix, start, written[-1].revision) == written


async def test_a_catch_up_larger_than_the_largest_message_comes_whole(server: EtcdServer, prefix: str) -> None:
    """etcd cuts at about 2 MiB where fragments are asked for, and would send all of it in one message otherwise."""
    async with connect([server.endpoint], Settings(max_message_bytes=3 * 2**20)) as client:
        store = EtcdStore(client)
        start = (await store.snapshot(prefix)).revision + 1
        revisions = [await put(store, f"{prefix}{number:03}", b"x" * 300_000) for number in range(40)]
        seen = await history(store, prefix, start, revisions[-1])
    assert [revision.revision for revision in seen] == revisions


async def test_a_frozen_etcd_is_an_error_within_the_deadline_and_the_watch_recovers(
    server: EtcdServer, store: EtcdStore, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "federation.etcd.watch")
    start = await put(store, prefix + "before")
    follower = Follower(store, prefix, start)
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follower.run())
        await eventually(lambda: follower.saw(prefix + "before"))
        server.pause()
        await eventually(lambda: "is interrupted" in caplog.text)
        for call in (store.get(prefix), store.snapshot(prefix), store.txn(Txn({}, puts={prefix + "unknown": b"v"}))):
            with pytest.raises(StoreUnavailable):
                await call
        server.resume()
        await put(store, prefix + "after")
        await eventually(lambda: follower.saw(prefix + "after"))
        following.cancel()
    assert follower.seen == await history(store, prefix, start, follower.seen[-1].revision)
    assert caplog.text.count("is interrupted") == 1


async def test_a_quiet_watch_stays_on_one_stream(
    client: EtcdClient, store: EtcdStore, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A prefix that does not change is no silent server: progress requests are answered."""
    start = (await store.snapshot(prefix)).revision + 1
    async with aclosing(store.watch(prefix, start)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        await pass_time(client, store, "/elsewhere" + prefix, seconds=2)  # several rounds of progress
        last = await put(store, prefix + "at last")
        assert (await waiting).revision == last
    assert "interrupted" not in caplog.text


async def test_a_watch_that_compaction_overtook_while_etcd_was_away_says_so(
    server: EtcdServer, client: EtcdClient, store: EtcdStore, prefix: str
) -> None:
    start = await put(store, prefix + "a")
    async with aclosing(store.watch(prefix, start)) as watch:
        await anext(watch)
        server.kill()
        await server.restart()
        await put(store, prefix + "b")
        await compact(client, await put(store, prefix + "c"))
        with pytest.raises(Compacted):
            await anext(watch)


async def test_a_store_that_went_back_in_time_is_not_waited_for(
    server: EtcdServer, store: EtcdStore, prefix: str
) -> None:
    """As after a restore from a backup: the revision to go on from is one that the store has not reached again."""
    for number in range(10):
        start = await put(store, f"{prefix}{number}")
    async with aclosing(store.watch(prefix, start)) as watch:
        await anext(watch)
        server.kill()
        shutil.rmtree(server.directory / "data")
        await server.restart()
        with pytest.raises(Compacted):
            await anext(watch)


async def test_another_cluster_at_the_same_address_is_not_mistaken_for_the_store(
    server: EtcdServer, store: EtcdStore, prefix: str, etcd_factory: EtcdFactory
) -> None:
    start = await put(store, prefix + "a")
    other = etcd_factory()
    async with connect([other.endpoint], SETTINGS) as client:
        for number in range(10):  # it is ahead of the store, so revisions tell nothing
            await put(EtcdStore(client), f"{prefix}{number}")
    other.kill()
    async with aclosing(store.watch(prefix, start)) as watch:
        await anext(watch)
        server.kill()
        other.port = server.port
        await other.restart()
        with pytest.raises(Compacted):
            await anext(watch)
