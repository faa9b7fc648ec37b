"""Watches that are open while their etcd is put back from a backup, or compacted: nobody goes on unaware."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from pathlib import Path

import pytest

from federation.etcd.client import EtcdClient, Settings, connect
from federation.etcd.store import EtcdStore
from federation.store import Compacted, Store, Txn
from fedmarket.retry import Backoff, retry
from tests.support.etcd import VERSIONS, EtcdFactory, EtcdServer
from tests.support.proxy import Proxy
from tests.support.stores import compact, put, take
from tests.support.waiting import eventually

SETTINGS = Settings(
    call_seconds=20.0,  # calls wait while etcd is away
    progress_seconds=0.3,
    silence_seconds=0.3,
    reconnect=Backoff(first_seconds=0.02, longest_seconds=0.2),
)


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest, etcd_factory: EtcdFactory) -> EtcdServer:
    return etcd_factory(version=request.param)


@pytest.fixture
async def client(server: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with connect([server.endpoint], SETTINGS) as client:
        yield client


@pytest.fixture
def store(client: EtcdClient) -> EtcdStore:
    return EtcdStore(client)


async def copy(server: EtcdServer, to: Path) -> None:
    """Back up: stop etcd, copy its data, start it."""
    server.kill()
    shutil.copytree(server.data, to)
    await server.restart()


async def put_back(server: EtcdServer, backup: Path) -> None:
    """Restore: stop etcd, put the copy in the place of its data, start it at the same port."""
    server.kill()
    shutil.rmtree(server.data)
    shutil.copytree(backup, server.data)
    await server.restart()


async def test_a_store_that_was_put_back_ends_every_watch(
    server: EtcdServer, store: EtcdStore, prefix: str, tmp_path: Path
) -> None:
    """Also one that has yielded nothing, because nothing below its prefix has changed since it began."""
    await put(store, prefix + "a/old")
    await copy(server, tmp_path / "backup")
    for number in range(10):
        last = await put(store, f"{prefix}a/{number}")
    async with (
        aclosing(store.watch(prefix + "a/", last)) as busy,
        aclosing(store.watch(prefix + "b/", last + 1)) as quiet,
    ):
        assert (await anext(busy)).revision == last
        waiting = [asyncio.ensure_future(anext(watch)) for watch in (busy, quiet)]
        await put_back(server, tmp_path / "backup")
        for each in waiting:
            with pytest.raises(Compacted):
                await each
    snapshot = await store.snapshot(prefix)
    assert [item.key for item in snapshot.items] == [prefix + "a/old"]
    async with aclosing(store.watch(prefix, snapshot.revision + 1)) as again:
        after = await put(store, prefix + "new")
        assert (await anext(again)).revision == after


async def test_a_store_that_was_put_back_is_noticed_by_a_watch_that_begins_after_it(
    server: EtcdServer, store: EtcdStore, prefix: str, tmp_path: Path
) -> None:
    """Between a snapshot and the watch from the next revision on."""
    await copy(server, tmp_path / "backup")
    await put(store, prefix + "a")
    snapshot = await store.snapshot(prefix)
    await put_back(server, tmp_path / "backup")
    async with aclosing(store.watch(prefix, snapshot.revision + 1)) as watch:
        with pytest.raises(Compacted):
            await anext(watch)


async def test_a_store_that_was_put_back_and_went_another_way_as_far_is_noticed(
    server: EtcdServer, client: EtcdClient, store: EtcdStore, prefix: str, tmp_path: Path
) -> None:
    """As many new writes as were lost: revisions alone tell nothing any more."""
    await copy(server, tmp_path / "backup")
    for number in range(5):
        last = await put(store, prefix + "head", b"old %d" % number)
    async with (
        aclosing(store.watch(prefix, last)) as watch,
        aclosing(store.watch("/elsewhere" + prefix, last + 1)) as quiet,
    ):
        assert (await anext(watch)).revision == last
        await put_back(server, tmp_path / "backup")
        while await put(store, prefix + "head", b"new") < last + 5:
            pass
        with pytest.raises(Compacted):
            await anext(watch)
        with pytest.raises(Compacted):  # told by the other one
            await anext(quiet)


async def test_a_restart_of_the_same_store_is_no_setback(server: EtcdServer, store: EtcdStore, prefix: str) -> None:
    """Whatever was last: a put, a delete, both in one revision, nothing below the prefix."""
    start = (await store.snapshot(prefix)).revision + 1
    changes = (
        Txn({}, puts={prefix + "a": b"1", prefix + "b": b"1"}),
        Txn({}, deletes=[prefix + "b"]),
        Txn({}, puts={prefix + "b": b"2"}, deletes=[prefix + "a"]),
        Txn({}, puts={"/elsewhere" + prefix: b"v"}),
    )
    seen, written = [], []
    async with aclosing(store.watch(prefix, start)) as watch:
        for change in changes:
            result = await store.txn(change)
            if not any(key.startswith("/elsewhere") for key in change.puts):
                written.append(result.revision)
                seen += await take(watch, 1)
            server.kill()
            await server.restart()
        written.append(await put(store, prefix + "last"))
        seen += await take(watch, 1)
    assert [revision.revision for revision in seen] == written


class Mirror:
    """A copy of what is below a prefix, kept in step as a catalog is: list, watch, and list again when told so."""

    def __init__(self) -> None:
        self.items: dict[str, bytes] = {}
        self.listed = 0

    async def follow(self, store: Store, prefix: str) -> None:
        while True:
            snapshot = await retry(lambda: store.snapshot(prefix), attempts=100, backoff=SETTINGS.reconnect)
            self.items = {item.key: item.value for item in snapshot.items}
            self.listed += 1
            try:
                async with aclosing(store.watch(prefix, snapshot.revision + 1)) as watch:
                    async for revision in watch:
                        for change in revision.changes:
                            self._apply(change.key, change.value)
            except Compacted:
                continue

    def shows(self, key: str, value: bytes) -> bool:
        return self.items.get(key) == value

    def _apply(self, key: str, value: bytes | None) -> None:
        if value is None:
            del self.items[key]
        else:
            self.items[key] = value


async def test_a_mirror_is_exact_though_history_is_compacted_all_the_time(
    server: EtcdServer, client: EtcdClient, store: EtcdStore, prefix: str
) -> None:
    """Cut off twice, it has missed history that is gone: it lists again, and misses no delete."""
    mirror = Mirror()
    with Proxy(server.port) as proxy:
        async with connect([f"127.0.0.1:{proxy.port}"], SETTINGS) as cut_off, asyncio.TaskGroup() as tasks:
            following = tasks.create_task(mirror.follow(EtcdStore(cut_off), prefix))
            for number in range(150):
                if number in (50, 100):
                    proxy.cut()
                if number in (60, 110):
                    proxy.heal()
                    await eventually(partial(mirror.shows, prefix + "last", b"%d" % (number - 1)))
                txn = Txn({}, puts={f"{prefix}{number}": b"v", prefix + "last": b"%d" % number})
                await store.txn(txn)
                result = await store.txn(Txn({}, deletes=[f"{prefix}{number - 20}"]))
                await compact(client, result.revision)
            await eventually(partial(mirror.shows, prefix + "last", b"149"))
            following.cancel()
    assert mirror.items == {item.key: item.value for item in (await store.snapshot(prefix)).items}
    assert mirror.listed >= 3


async def test_a_compaction_does_not_disturb_a_watch_that_keeps_up(
    client: EtcdClient, store: EtcdStore, prefix: str
) -> None:
    start = (await store.snapshot(prefix)).revision + 1
    revisions = []
    async with aclosing(store.watch(prefix, start)) as watch:
        for number in range(20):
            revisions.append(await put(store, f"{prefix}{number}"))
            assert (await anext(watch)).revision == revisions[-1]
            await compact(client, revisions[-1])
