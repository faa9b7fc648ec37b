"""An etcd whose space runs out: what it refuses, what goes on, and the cure."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

import pytest

from federation.etcd.client import EtcdClient, connect
from federation.etcd.store import EtcdStore
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import NoSpace
from fedmarket.pb.etcd import rpc_pb2 as rpc
from tests.support.etcd import VERSIONS, EtcdFactory
from tests.support.stores import compact


@pytest.fixture(params=VERSIONS)
async def client(request: pytest.FixtureRequest, etcd_factory: EtcdFactory) -> AsyncIterator[EtcdClient]:
    """Connected to an etcd that is full after about forty of LARGE."""
    server = etcd_factory("--quota-backend-bytes=4194304", version=request.param)
    async with connect([server.endpoint]) as client:
        yield client


@pytest.fixture
def store(client: EtcdClient) -> EtcdStore:
    return EtcdStore(client)


LARGE = b"x" * 100_000


async def put(store: EtcdStore, key: str, value: bytes) -> int:
    """Put over what is there. Guarded: without a guard nobody knows what etcd did when it says that it is full."""
    found = await store.get(key)
    result = await store.txn(Txn({key: found.mod_revision if found else 0}, puts={key: value}))
    assert result.succeeded
    return result.revision


async def test_reading_watching_and_deleting_go_on_in_a_full_etcd_and_writing_after_the_cure(
    client: EtcdClient, store: EtcdStore
) -> None:
    start = await put(store, "k/first", b"v")
    async with aclosing(store.watch("k/", start + 1)) as watch:
        revisions = []
        with suppress(NoSpace):
            while True:
                try:
                    revisions.append(await put(store, "k/large", LARGE))
                except (
                    StoreUnavailable
                ):  # the one that fills it may be applied, though etcd says that there is no space
                    found = await store.get("k/large")
                    assert found is not None
                    revisions.append(found.mod_revision)
        with pytest.raises(NoSpace, match="compact and defragment it"):
            await put(store, "k/large", LARGE)
        assert [(await anext(watch)).revision for _ in revisions] == revisions
        assert (await store.snapshot("k/")).revision == revisions[-1]
        deleted = (await store.txn(Txn({}, deletes=["k/large"]))).revision
        assert (await anext(watch)).revision == deleted

        await compact(client, deleted)
        await client.call(client.maintenance.Defragment, rpc.DefragmentRequest(), doing="defragment")
        with pytest.raises(NoSpace):  # until the alarm is disarmed
            await put(store, "k/again", b"v")
        for member in (await alarm(client, rpc.AlarmRequest.GET)).alarms:
            await alarm(client, rpc.AlarmRequest.DEACTIVATE, member.memberID)
        again = await put(store, "k/again", LARGE)
        assert (await anext(watch)).revision == again
        async with store.lease(60) as lease:
            assert not lease.lost


async def alarm(
    client: EtcdClient, action: rpc.AlarmRequest.AlarmAction.ValueType, member: int = 0
) -> rpc.AlarmResponse:
    request = rpc.AlarmRequest(action=action, memberID=member, alarm=rpc.NOSPACE)
    return await client.call(client.maintenance.Alarm, request, doing="see to its alarms")


async def test_a_full_etcd_says_so_and_a_refused_transaction_was_not_applied(store: EtcdStore) -> None:
    """Many at once, because etcd applies those that are on their way, though it answers them with "no space"."""
    done: set[str] = set()
    refused: set[str] = set()

    async def create(key: str) -> None:
        try:
            await store.txn(Txn({key: 0}, puts={key: LARGE}))
            done.add(key)
        except NoSpace:
            refused.add(key)
        except StoreUnavailable as error:
            assert isinstance(error.__cause__, NoSpace)  # noqa: PT017 -- of one outcome among several

    for wave in range(20):
        await asyncio.gather(*(create(f"k/{wave}/{number}") for number in range(20)))
        if refused:
            break
    stored = {item.key for item in (await store.snapshot("k/")).items}
    assert refused
    assert done <= stored
    assert not refused & stored
    with pytest.raises(NoSpace, match="disarm"):
        async with store.lease(60):
            pass
    assert (await store.txn(Txn({}, deletes=sorted(stored)[:100]))).succeeded  # how to get out of it
