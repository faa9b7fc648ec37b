"""An etcd with users and passwords: tokens that end, roles that change, passwords that are wrong."""

import asyncio
import logging
from contextlib import aclosing
from pathlib import Path

import pytest

from federation.etcd.auth import Login
from federation.etcd.client import Settings, connect, dial
from federation.etcd.store import EtcdStore
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import Denied
from fedmarket.pb.etcd import rpc_pb2 as rpc
from fedmarket.retry import Backoff
from tests.support.etcd import VERSIONS, EtcdFactory, EtcdServer
from tests.support.etcd_users import (
    FOREIGN,
    OWN,
    ZONE,
    add_user,
    as_root,
    jwt_flags,
    let_in,
    logins,
    permit,
    shut_out,
    wall,
)
from tests.support.proxy import Proxy
from tests.support.stores import Follower, pass_time, put
from tests.support.waiting import eventually

SETTINGS = Settings(
    progress_seconds=0.5, silence_seconds=0.5, reconnect=Backoff(first_seconds=0.02, longest_seconds=0.2)
)
TOKEN_SECONDS = 2


@pytest.fixture(params=VERSIONS)
async def server(request: pytest.FixtureRequest, etcd_factory: EtcdFactory) -> EtcdServer:
    """An etcd that lets users in, by tokens that a member forgets when it restarts."""
    server = etcd_factory(version=request.param)
    await wall(server)
    return server


@pytest.fixture(params=VERSIONS)
async def jwt_server(request: pytest.FixtureRequest, etcd_factory: EtcdFactory, tmp_path: Path) -> EtcdServer:
    """An etcd that lets users in, by tokens that end soon and hold for one state of users and roles only."""
    server = etcd_factory(*jwt_flags(tmp_path, TOKEN_SECONDS), version=request.param)
    await wall(server)
    return server


async def tokens_end(server: EtcdServer) -> None:
    async with as_root(server) as client:
        await pass_time(client, EtcdStore(client), "/clock/", seconds=TOKEN_SECONDS + 1)


async def test_a_user_has_what_its_role_gives_and_nothing_else(server: EtcdServer) -> None:
    async with connect([server.endpoint], login=ZONE) as client:
        store = EtcdStore(client)
        revision = await put(store, OWN + "a")
        assert [item.key for item in (await store.snapshot(OWN)).items] == [OWN + "a"]
        async with aclosing(store.watch(OWN, revision)) as watch:
            assert (await anext(watch)).revision == revision
        async with store.lease(10) as lease:
            await put(store, OWN + "b", lease=lease.id)
        with pytest.raises(Denied, match="grant the etcd user of this agent"):
            await put(store, FOREIGN + "a")
        with pytest.raises(Denied):
            await store.snapshot("")
        async with aclosing(store.watch(FOREIGN, revision + 1)) as watch:
            with pytest.raises(Denied):
                await anext(watch)


async def test_who_does_not_log_in_is_denied(server: EtcdServer) -> None:
    async with dial([server.endpoint]) as client:
        with pytest.raises(Denied, match="user and password"):
            await EtcdStore(client).get(OWN)


async def test_a_wrong_password_is_one_clear_error_and_is_sent_once(
    server: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with dial([server.endpoint], login=Login("zone", "open-sesame")) as client:
        before = await logins(server)
        store = EtcdStore(client)
        results = await asyncio.gather(*(store.get(OWN) for _ in range(20)), return_exceptions=True)
        results.append((await asyncio.gather(store.get(OWN), return_exceptions=True))[0])
        async with aclosing(store.watch(OWN, 1)) as watch:
            with pytest.raises(Denied, match="log in as 'zone'"):
                await anext(watch)
    assert {type(result) for result in results} == {Denied}
    assert {str(result) for result in results} == {
        f"etcd at {server.endpoint} failed to log in as 'zone' (INVALID_ARGUMENT: etcdserver: authentication failed, "
        "invalid user ID or password): correct [etcd] user and what its password_file holds"
    }
    assert await logins(server) == before + 1
    assert "open-sesame" not in caplog.text + repr(Login("zone", "open-sesame"))


async def test_a_login_that_etcd_learns_to_know_is_taken_after_a_while(server: EtcdServer) -> None:
    async with dial([server.endpoint], Settings(login_pause_seconds=0.1), login=Login("late", "secret")) as client:
        with pytest.raises(Denied):
            await EtcdStore(client).get(OWN)
        async with as_root(server) as root:
            await add_user(root, "late", "secret")
            await let_in(root, "late")
            await pass_time(root, EtcdStore(root), "/clock/", seconds=1)
        assert await EtcdStore(client).get(OWN) is None


async def test_a_member_that_forgot_the_tokens_is_told_the_password_once(server: EtcdServer) -> None:
    async with connect([server.endpoint], SETTINGS, login=ZONE) as client:
        store = EtcdStore(client)
        first = await put(store, OWN + "first")
        async with aclosing(store.watch(OWN, first)) as watch, store.lease(30) as lease:
            assert (await anext(watch)).revision == first
            server.kill()
            await server.restart()
            put_after = await asyncio.gather(*(put(store, f"{OWN}{number}") for number in range(20)))
            seen = [(await anext(watch)).revision for _ in put_after]
            assert not lease.lost
            await put(store, OWN + "leased", lease=lease.id)
    assert seen == sorted(put_after)
    assert await logins(server) <= 1  # etcd 3.4 may find the tokens again in its log


async def test_a_token_that_has_ended_is_renewed_and_nothing_is_missed(jwt_server: EtcdServer) -> None:
    with Proxy(jwt_server.port) as proxy:
        async with connect([f"127.0.0.1:{proxy.port}"], SETTINGS, login=ZONE) as client:
            store = EtcdStore(client)
            revisions = [await put(store, OWN + "before")]
            async with aclosing(store.watch(OWN, revisions[0])) as watch, store.lease(30) as lease:
                seen = [(await anext(watch)).revision]
                await tokens_end(jwt_server)
                revisions += await asyncio.gather(*(put(store, f"{OWN}{number}") for number in range(10)))
                await tokens_end(jwt_server)
                proxy.cut()
                proxy.heal()
                await answers(store)
                revisions.append(await put(store, OWN + "after"))
                seen += [(await anext(watch)).revision for _ in range(11)]
                assert not lease.lost
    assert seen == sorted(revisions)


async def answers(store: EtcdStore) -> None:
    """Wait until the connection that was cut is replaced: what meets its end has no outcome."""
    async with asyncio.timeout(30):
        while True:
            try:
                await store.get(OWN)
            except StoreUnavailable:
                await asyncio.sleep(0.02)
            else:
                return


async def test_calls_go_on_while_roles_change(jwt_server: EtcdServer) -> None:
    """Each change makes etcd reject the tokens from before ("revision of auth store is old")."""
    async with as_root(jwt_server) as root, connect([jwt_server.endpoint], login=ZONE) as client:
        for number in range(5):
            await permit(root, f"/more/{number}/")
            assert await put(EtcdStore(client), OWN + "a")


async def test_a_lost_permission_shows_when_a_watch_connects_anew_and_nothing_is_missed_when_it_is_back(
    server: EtcdServer,
) -> None:
    """etcd asks for the permission when a stream begins, and never again while it is open."""
    denied = asyncio.Event()

    async def supervise(follower: Follower) -> None:
        while True:
            try:
                await follower.run()
            except Denied:
                denied.set()
                await asyncio.sleep(0.05)

    with Proxy(server.port) as proxy:
        async with as_root(server) as root, connect([f"127.0.0.1:{proxy.port}"], SETTINGS, login=ZONE) as client:
            roots, zones = EtcdStore(root), EtcdStore(client)
            revisions = [await put(zones, OWN + "with")]
            async with asyncio.TaskGroup() as tasks:
                follower = Follower(zones, OWN, revisions[0])
                following = tasks.create_task(supervise(follower))
                await eventually(lambda: len(follower.seen) == 1)
                await shut_out(root)
                with pytest.raises(Denied):
                    await put(zones, OWN + "refused")
                proxy.cut()
                proxy.heal()
                await asyncio.wait_for(denied.wait(), 30)
                revisions += [await put(roots, f"{OWN}{number}") for number in range(5)]
                await let_in(root)
                revisions.append(await put(roots, OWN + "again"))
                await eventually(lambda: len(follower.seen) >= 7)
                following.cancel()
    assert [revision.revision for revision in follower.seen] == revisions


async def test_a_login_is_not_needed_until_access_control_is_enabled(etcd_factory: EtcdFactory) -> None:
    server = etcd_factory()
    async with connect([server.endpoint], login=ZONE) as client:
        store = EtcdStore(client)
        await put(store, OWN + "open")
        await wall(server)
        await put(store, OWN + "walled")
        with pytest.raises(Denied):
            await put(store, FOREIGN + "a")


async def test_a_transaction_is_applied_once_though_its_first_token_is_rejected(server: EtcdServer) -> None:
    async with connect([server.endpoint], login=ZONE) as client, as_root(server) as root:
        store = EtcdStore(client)
        await put(store, OWN + "count")
        server.kill()
        await server.restart()
        await asyncio.gather(*(store.txn(Txn({}, puts={OWN + "count": b"v"})) for _ in range(10)))
        request = rpc.RangeRequest(key=(OWN + "count").encode())
        assert (await root.call(root.kv.Range, request, doing="read")).kvs[0].version == 11
