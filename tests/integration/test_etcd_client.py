"""Calls to a real etcd: what it refuses, what it cannot do, and an etcd that is not there."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.etcd.client import EtcdClient, Settings, connect, dial
from federation.etcd.store import EtcdStore
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import TooLarge
from fedmarket.pb.etcd import rpc_pb2 as rpc
from tests.support.etcd import EtcdFactory, EtcdServer, free_port
from tests.support.stores import compact

PAGED = Settings(page_keys=10)


@pytest.fixture
def store(etcd_client: EtcdClient) -> EtcdStore:
    return EtcdStore(etcd_client)


@pytest.fixture
async def paged_client(etcd_server: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with connect([etcd_server.endpoint], PAGED) as client:
        yield client


async def fill(store: EtcdStore, prefix: str, count: int, size: int = 1) -> list[str]:
    keys = [f"{prefix}{number:04}" for number in range(count)]
    for key in keys:
        await store.txn(Txn({}, puts={key: b"x" * size}))
    return keys


# Connecting


async def test_an_etcd_that_is_down_is_a_clear_error() -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    with pytest.raises(StoreUnavailable, match=f"etcd at {endpoint} failed to tell its status .*onnection refused"):
        async with connect([endpoint], Settings(call_seconds=5.0)):
            pass


async def test_a_port_that_never_answers_is_an_error_within_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:  # connections are made, and nobody takes them
        endpoint = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(StoreUnavailable, match=endpoint):
            async with connect([endpoint], Settings(call_seconds=0.2)):
                pass


async def test_a_call_waits_for_an_etcd_that_is_starting(etcd_factory: EtcdFactory) -> None:
    server = etcd_factory()
    server.kill()
    async with dial([server.endpoint], Settings(call_seconds=30.0)) as client:
        reading = asyncio.ensure_future(EtcdStore(client).get("a"))
        await server.restart()
        assert await reading is None


# Limits


async def test_a_transaction_over_etcds_size_is_refused_and_changes_nothing(store: EtcdStore, prefix: str) -> None:
    for size in (1_600_000, 3_000_000):  # over etcd's limit, over that of its gRPC server
        with pytest.raises(TooLarge):
            await store.txn(Txn({}, puts={prefix + "small": b"v", prefix + "large": b"x" * size}))
    assert (await store.snapshot(prefix)).items == []


# Snapshots


async def test_a_snapshot_may_be_larger_than_grpcs_usual_message(store: EtcdStore, prefix: str) -> None:
    keys = await fill(store, prefix, 8, size=1_000_000)
    items = (await store.snapshot(prefix)).items
    assert [item.key for item in items] == keys
    assert sum(len(item.value) for item in items) == 8_000_000


async def test_a_page_that_is_too_large_is_read_in_smaller_ones(etcd_server: EtcdServer, prefix: str) -> None:
    async with connect([etcd_server.endpoint], Settings(max_message_bytes=250_000)) as client:
        store = EtcdStore(client)
        keys = await fill(store, prefix, 11, size=100_000)
        assert [item.key for item in (await store.snapshot(prefix)).items] == keys


async def test_a_key_larger_than_any_message_is_an_error_not_an_endless_try(
    etcd_server: EtcdServer, prefix: str
) -> None:
    async with connect([etcd_server.endpoint], Settings(max_message_bytes=50_000)) as client:
        store = EtcdStore(client)
        await fill(store, prefix, 3, size=100_000)
        with pytest.raises(TooLarge):
            await store.snapshot(prefix)


class Meddler:
    """Does something between the pages of a snapshot."""

    def __init__(self, client: EtcdClient, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.pages = 0
        self.meddled = 0
        self._store = EtcdStore(client)
        self._client = client
        self._call = client.call
        self._times = times
        monkeypatch.setattr(client, "call", self)

    async def __call__(self, method: Any, request: Any, **named: Any) -> Any:
        is_page = isinstance(request, rpc.RangeRequest) and request.limit
        if is_page and request.revision and self.meddled < self._times:
            self.meddled += 1
            await self.meddle(request.key.decode())
        self.pages += bool(is_page)
        return await self._call(method, request, **named)

    async def meddle(self, key: str) -> None:
        raise AssertionError


class Writer(Meddler):
    """Writes keys behind and before the page that is read next, and deletes one."""

    async def meddle(self, key: str) -> None:
        prefix = key.rpartition("/")[0] + "/"
        puts = {f"{prefix}0000": b"new", f"{prefix}zzzz{self.meddled}": b"new"}
        await self._store.txn(Txn({}, puts=puts, deletes=[f"{prefix}0029"]))


class Compactor(Meddler):
    """Writes, and makes etcd forget the revision that is being read."""

    async def meddle(self, key: str) -> None:
        result = await self._store.txn(Txn({}, puts={"/elsewhere" + key: b"v"}))
        await compact(self._client, result.revision)


async def test_all_pages_are_of_the_revision_of_the_first(
    paged_client: EtcdClient, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EtcdStore(paged_client)
    await fill(store, prefix, 30)
    before = await store.snapshot(prefix)
    writer = Writer(paged_client, monkeypatch, times=2)
    assert await store.snapshot(prefix) == before
    assert writer.meddled == 2
    assert (await store.snapshot(prefix)).items != before.items


async def test_a_snapshot_that_compaction_overtakes_is_begun_again(
    paged_client: EtcdClient, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EtcdStore(paged_client)
    keys = await fill(store, prefix, 30)
    compactor = Compactor(paged_client, monkeypatch, times=2)
    assert [item.key for item in (await store.snapshot(prefix)).items] == keys
    assert compactor.meddled == 2


async def test_a_snapshot_that_compaction_always_overtakes_is_given_up(
    paged_client: EtcdClient, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EtcdStore(paged_client)
    await fill(store, prefix, 30)
    compactor = Compactor(paged_client, monkeypatch, times=1000)
    with pytest.raises(StoreUnavailable, match="compacted"):
        await store.snapshot(prefix)
    assert compactor.meddled == PAGED.snapshot_attempts


# An etcd that fails in the middle


async def test_a_transaction_is_sent_once_even_if_its_answer_is_lost(etcd_factory: EtcdFactory) -> None:
    server = etcd_factory()
    async with connect([server.endpoint], Settings(call_seconds=0.3)) as client:
        store = EtcdStore(client)
        await store.txn(Txn({}, puts={"count": b"0"}))
        server.pause()
        with pytest.raises(StoreUnavailable):
            await store.txn(Txn({}, puts={"count": b"1"}))
        server.resume()
    async with connect([server.endpoint]) as client:
        request = rpc.RangeRequest(key=b"count")
        found = (await client.call(client.kv.Range, request, doing="read")).kvs[0]
    assert found.version in (1, 2)  # the puts that were applied: the second may have been, once
