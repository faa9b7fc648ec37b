"""Leases of a real etcd: kept, ended by the server, and lost with it."""

import asyncio
from contextlib import aclosing

import pytest

from federation.etcd.client import EtcdClient, Settings, connect
from federation.etcd.store import EtcdStore
from federation.store import Txn
from fedmarket.pb.etcd import rpc_pb2 as rpc
from tests.support.etcd import EtcdFactory
from tests.support.stores import pass_time
from tests.support.waiting import eventually

TTL = 2  # seconds; the least that etcd grants
IMPATIENT = Settings(call_seconds=0.3)


@pytest.fixture
def store(etcd_client: EtcdClient) -> EtcdStore:
    return EtcdStore(etcd_client)


async def test_a_lease_lives_on_past_its_time_while_its_context_is_open(
    etcd_client: EtcdClient, store: EtcdStore, prefix: str
) -> None:
    async with store.lease(TTL) as lease:
        await store.txn(Txn({}, puts={prefix + "a": b"v"}, lease=lease.id))
        await pass_time(etcd_client, store, prefix, seconds=2 * TTL)
        assert not lease.lost
        assert await store.get(prefix + "a") is not None
    assert await store.get(prefix + "a") is None


async def test_a_fraction_of_a_second_is_granted_as_a_whole_one(store: EtcdStore) -> None:
    async with store.lease(0.1) as lease:
        assert not lease.lost


async def test_a_lease_that_the_server_ended_is_lost(etcd_client: EtcdClient, store: EtcdStore) -> None:
    async with store.lease(TTL) as lease:
        request = rpc.LeaseRevokeRequest(ID=lease.id)
        await etcd_client.call(etcd_client.lease.LeaseRevoke, request, doing="revoke a lease")
        await eventually(lambda: lease.lost)


async def test_a_lease_is_lost_in_time_when_etcd_freezes_and_does_not_come_back(etcd_factory: EtcdFactory) -> None:
    server = etcd_factory()
    async with connect([server.endpoint], IMPATIENT) as client:
        store = EtcdStore(client)
        async with store.lease(TTL) as lease:
            last = await store.txn(Txn({}, puts={"a": b"v"}, lease=lease.id))
            server.pause()
            await eventually(lambda: lease.lost)
            server.resume()
            async with aclosing(store.watch("a", last.revision + 1)) as watch:
                assert (await anext(watch)).changes[0].value is None
            assert lease.lost


async def test_a_lease_survives_a_short_outage(etcd_factory: EtcdFactory) -> None:
    server = etcd_factory()
    async with connect([server.endpoint]) as client:
        store = EtcdStore(client)
        async with store.lease(10) as lease:
            await store.txn(Txn({}, puts={"a": b"v"}, lease=lease.id))
            server.kill()
            await server.restart()
            await pass_time(client, store, "/elsewhere/", seconds=TTL)
            assert not lease.lost
            assert await store.get("a") is not None


async def test_the_end_of_a_context_is_bounded_when_etcd_is_gone(etcd_factory: EtcdFactory) -> None:
    server = etcd_factory()
    async with connect([server.endpoint], IMPATIENT) as client, asyncio.timeout(30), EtcdStore(client).lease(60):
        server.kill()


async def test_a_cancelled_holder_gives_its_lease_back(store: EtcdStore, prefix: str) -> None:
    bound = asyncio.Event()

    async def hold() -> None:
        async with store.lease(60) as lease:
            await store.txn(Txn({}, puts={prefix + "a": b"v"}, lease=lease.id))
            bound.set()
            await asyncio.Event().wait()

    holding = asyncio.ensure_future(hold())
    await bound.wait()
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert await store.get(prefix + "a") is None
