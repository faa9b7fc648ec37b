"""The fourth place of the rule: what etcd's access control lets a zone do where zones share one etcd."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import pytest

from federation.catalog import Catalog
from federation.etcd import grants
from federation.etcd.client import EtcdClient, Settings, connect
from federation.etcd.grants import Grant
from federation.etcd.ranges import below
from federation.etcd.store import EtcdStore
from federation.keys import Keyspace
from federation.opening import claim_etcd
from federation.records import encode
from federation.store import Store, Txn
from fedmarket.errors import Denied, NoSpace
from fedmarket.pb.etcd import rpc_pb2 as rpc
from fedmarket.pb.etcd.auth_pb2 import Permission, UserAddOptions
from fedmarket.retry import Backoff
from tests.support.etcd import VERSIONS
from tests.support.etcd_cluster import EtcdCluster
from tests.support.federation import Zone, market, names
from tests.support.proxy import Proxy
from tests.support.stores import compact, put
from tests.support.waiting import eventually
from zone_agent.cli.main import run

HOSTILE, VICTIM = Keyspace("/fedmarket/1/", 1), Keyspace("/fedmarket/1/", 2)
ZONES = range(1, 10)
"""Zones that share the cluster; tests that write whole catalogs have some of their own."""
QUICK = Settings(reconnect=Backoff(first_seconds=0.05, longest_seconds=0.2))


def user_of(zone: int) -> str:
    return f"fedmarket-zone-{zone}"


@pytest.fixture(scope="module", params=VERSIONS)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """A cluster that each of ZONES was let into by `fedmarket etcd grant`, with access control enabled."""
    users = ["root", *map(user_of, ZONES)]
    cluster = EtcdCluster(tmp_path_factory.mktemp("cluster"), users, request.param)
    try:
        cluster.start()
        asyncio.run(make_root(cluster))
        for zone in ZONES:
            enable = ["--enable-auth"] if zone == ZONES[-1] else []
            assert run([*granting(cluster), "--zone-id", str(zone), *enable]) == 0
        yield cluster
    finally:
        cluster.stop()


def granting(cluster: EtcdCluster) -> list[str]:
    """Return the command by which root lets zones into the cluster."""
    pem = cluster.authority
    endpoints = [f"--endpoint={endpoint}" for endpoint in cluster.endpoints]
    root = [f"--ca={pem.ca}", f"--cert={pem.certificate('root')}", f"--key={pem.key('root')}"]
    return ["etcd", "grant", *endpoints, *root]


async def make_root(cluster: EtcdCluster) -> None:
    async with cluster.client("root") as client:
        made = rpc.AuthUserAddRequest(name="root", options=UserAddOptions(no_password=True))
        await client.call(client.auth.UserAdd, made, doing="make root")
        given = rpc.AuthUserGrantRoleRequest(user="root", role="root")
        await client.call(client.auth.UserGrantRole, given, doing="make root root")


@pytest.fixture
async def hostile(cluster: EtcdCluster) -> AsyncIterator[EtcdClient]:
    """Somebody who has zone 1's certificate, and any program."""
    async with cluster.client(user_of(HOSTILE.zone), QUICK) as client:
        yield client


@pytest.fixture
async def victim(cluster: EtcdCluster) -> AsyncIterator[EtcdClient]:
    async with cluster.client(user_of(VICTIM.zone), QUICK) as client:
        await put(EtcdStore(client), VICTIM.own + "app/1", b"public")
        await put(EtcdStore(client), VICTIM.private + "app/2", b"secret")
        yield client


def put_op(key: str) -> rpc.RequestOp:
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key.encode(), value=b"forged"))


def delete_op(key: str, end: str = "") -> rpc.RequestOp:
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key.encode(), range_end=end.encode()))


def read_op(key: str) -> rpc.RequestOp:
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key.encode()))


THEIRS = [VICTIM.own + "app/1", VICTIM.own + "new", VICTIM.private + "app/2", VICTIM.duty("x"), "/fedmarket/1/owner"]
PROBE = rpc.Compare(
    key=(VICTIM.private + "app/2").encode(), target=rpc.Compare.VALUE, result=rpc.Compare.EQUAL, value=b"secret"
)
FORBIDDEN = {
    **{f"put {key}": rpc.TxnRequest(success=[put_op(key)]) for key in THEIRS},
    **{f"delete {key}": rpc.TxnRequest(success=[delete_op(key)]) for key in THEIRS},
    "one put among many": rpc.TxnRequest(
        success=[*(put_op(f"{HOSTILE.own}{n}") for n in range(50)), put_op(VICTIM.own + "app/1")]
    ),
    "a put in the branch that is not taken": rpc.TxnRequest(failure=[put_op(VICTIM.own + "app/1")]),
    "delete all that begins like ours": rpc.TxnRequest(success=[delete_op(HOSTILE.own, VICTIM.own + "0")]),
    "delete everything": rpc.TxnRequest(success=[delete_op("\0", "\0")]),
    "read what is private": rpc.TxnRequest(success=[read_op(VICTIM.private + "app/2")]),
    "guess what is private": rpc.TxnRequest(compare=[PROBE]),
}


async def test_a_hostile_zone_may_not_change_or_learn_what_is_anothers(hostile: EtcdClient, victim: EtcdClient) -> None:
    before = await everything(victim)
    for name, txn in FORBIDDEN.items():
        with pytest.raises(Denied):
            await hostile.call(hostile.kv.Txn, txn, doing=name)
        assert await everything(victim) == before, name
    for key in THEIRS:
        with pytest.raises(Denied):
            await hostile.call(hostile.kv.Put, put_op(key).request_put, doing="put")
        with pytest.raises(Denied):
            await hostile.call(hostile.kv.DeleteRange, delete_op(key).request_delete_range, doing="delete")
    assert await everything(victim) == before
    assert (await EtcdStore(hostile).snapshot(HOSTILE.own)).items == []


async def everything(client: EtcdClient) -> list[Any]:
    store = EtcdStore(client)
    return [*(await store.snapshot(VICTIM.own)).items, *(await store.snapshot(VICTIM.mine)).items]


async def test_a_hostile_zone_may_not_list_or_watch_beyond_the_catalogs(
    hostile: EtcdClient, victim: EtcdClient
) -> None:
    store = EtcdStore(hostile)
    for prefix in (VICTIM.mine, VICTIM.private, VICTIM.prefix, "/", ""):
        with pytest.raises(Denied):
            await store.snapshot(prefix)
        async with aclosing(store.watch(prefix, 1)) as watch:
            with pytest.raises(Denied):
                await anext(watch)


async def test_a_zone_reads_and_watches_every_catalog(hostile: EtcdClient, victim: EtcdClient) -> None:
    store = EtcdStore(hostile)
    found = {item.key: item for item in (await store.snapshot(VICTIM.prefix + "catalog/")).items}
    there = found[VICTIM.own + "app/1"]
    assert there.value == b"public"
    async with aclosing(store.watch(VICTIM.own, there.mod_revision)) as watch:
        assert (await anext(watch)).changes[0].value == b"public"


async def test_a_hostile_zone_may_not_bind_anothers_keys_to_a_lease_or_end_anothers_lease(
    hostile: EtcdClient, victim: EtcdClient
) -> None:
    theirs = EtcdStore(victim)
    async with EtcdStore(hostile).lease(60) as short, theirs.lease(60) as lease:
        await put(theirs, VICTIM.duty("head"), lease=lease.id)
        with pytest.raises(Denied):
            await put(EtcdStore(hostile), VICTIM.own + "app/1", b"public", lease=short.id)
        with pytest.raises(Denied):
            await hostile.call(hostile.lease.LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease.id), doing="revoke")
        assert await theirs.get(VICTIM.duty("head")) is not None


async def test_a_hostile_zone_may_not_give_itself_more(hostile: EtcdClient) -> None:
    auth, role, user = hostile.auth, Grant(HOSTILE, user_of(1)).role, user_of(1)
    more = Permission(permType=Permission.READWRITE, key=b"\0", range_end=b"\0")
    calls = [
        hostile.call(auth.UserGrantRole, rpc.AuthUserGrantRoleRequest(user=user, role="root"), doing="a"),
        hostile.call(auth.UserGrantRole, rpc.AuthUserGrantRoleRequest(user=user, role=VICTIM.mine[:-1]), doing="b"),
        hostile.call(auth.RoleGrantPermission, rpc.AuthRoleGrantPermissionRequest(name=role, perm=more), doing="c"),
        hostile.call(auth.UserAdd, rpc.AuthUserAddRequest(name="me", password="x"), doing="d"),
        hostile.call(auth.RoleAdd, rpc.AuthRoleAddRequest(name="mine"), doing="e"),
        hostile.call(auth.AuthDisable, rpc.AuthDisableRequest(), doing="f"),
    ]
    for call in calls:
        with pytest.raises(Denied):
            await call
    assert (await hostile.call(auth.UserGet, rpc.AuthUserGetRequest(name=user), doing="g")).roles == [role]


async def test_what_an_old_etcd_lets_through_is_known_and_fools_no_catalog(
    cluster: EtcdCluster, hostile: EtcdClient
) -> None:
    """A nested transaction goes unchecked in versions that `fedmarket etcd grant` warns of; signed heads still hold."""
    async with home_of(cluster, 6) as home:
        await home.create("genuine")
        forged = encode(market("forged"))
        put_it = rpc.RequestOp(
            request_put=rpc.PutRequest(key=f"{home.keyspace.own}market/6000100".encode(), value=forged)
        )
        nested = rpc.TxnRequest(success=[rpc.RequestOp(request_txn=rpc.TxnRequest(success=[put_it]))])
        enforced = grants.is_enforced((await hostile.status()).version)
        try:
            await hostile.call(hostile.kv.Txn, nested, doing="forge")
        except Denied:
            assert enforced
        else:
            assert not enforced
            await eventually(lambda: bool(home.own.fault))
        assert names(home.own) == {"market/6000100": "genuine"}


async def test_an_alarm_that_a_hostile_zone_raises_stops_changes_until_it_is_disarmed(
    cluster: EtcdCluster, hostile: EtcdClient, victim: EtcdClient
) -> None:
    store = EtcdStore(victim)
    before = await everything(victim)
    raising = rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, alarm=rpc.NOSPACE)
    try:
        await hostile.call(hostile.maintenance.Alarm, raising, doing="raise an alarm")
    except Denied:
        return  # a newer etcd asks who raises one
    with pytest.raises(NoSpace, match="disarm"):
        await store.txn(Txn({VICTIM.own + "new": 0}, puts={VICTIM.own + "new": b""}))
    assert await everything(victim) == before
    async with cluster.client("root") as root:
        disarming = rpc.AlarmRequest(action=rpc.AlarmRequest.DEACTIVATE, alarm=rpc.NOSPACE)
        await root.call(root.maintenance.Alarm, disarming, doing="disarm")
    assert (await store.txn(Txn({VICTIM.duty("x"): 0}, puts={VICTIM.duty("x"): b""}))).succeeded
    await store.txn(Txn({}, deletes=[VICTIM.duty("x")]))


async def test_a_hostile_compaction_costs_the_other_zones_nothing(
    cluster: EtcdCluster, hostile: EtcdClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "federation.catalog")
    async with home_of(cluster, 5) as home, far(cluster, 7) as (store, proxy), following(home, store) as copy:
        first = await home.create("before the cut")
        await copy.wait_for(home.own.pair, 10)
        proxy.cut()
        await home.create("during the cut")
        await home.delete(first)
        head = await EtcdStore(hostile).get(home.keyspace.own + "head")
        assert head is not None
        await compact(hostile, head.mod_revision)  # nothing forbids it: any user may
        proxy.heal()
        await copy.wait_for(home.own.pair, 20)
        assert list(names(copy).values()) == ["during the cut"]
        await home.create("after all")
        await copy.wait_for(home.own.pair, 10)
        assert copy.tree.root == home.own.tree.root


async def test_a_right_that_is_revoked_ends_the_watch_when_it_connects_anew_and_nothing_is_lost(
    cluster: EtcdCluster,
) -> None:
    catalogs, own = "/fedmarket/1/catalog/", "/fedmarket/1/catalog/9/"
    async with cluster.client("root") as root, cluster.client(user_of(9)) as writer, far(cluster, 8) as (store, proxy):
        keys, theirs = below(catalogs), EtcdStore(writer)
        first = await put(theirs, own + "a")
        async with aclosing(store.watch(catalogs, first)) as watch:
            assert (await anext(watch)).revision == first
            role = Grant(Keyspace("/fedmarket/1/", 8), user_of(8)).role
            revoked = rpc.AuthRoleRevokePermissionRequest(role=role, key=keys[0], range_end=keys[1])
            await root.call(root.auth.RoleRevokePermission, revoked, doing="revoke")
            second = await put(theirs, own + "b")
            assert (await anext(watch)).revision == second  # etcd asks who may watch when a watch is opened, only
            proxy.cut()
            missed = [await put(theirs, own + key) for key in "cd"]
            proxy.heal()
            with pytest.raises(Denied):
                await anext(watch)
        with pytest.raises(Denied):
            await store.get(own + "a")

        assert await asyncio.to_thread(run, [*granting(cluster), "--zone-id=8"]) == 0
        async with aclosing(store.watch(own, second + 1)) as watch:
            assert [(await anext(watch)).revision for _ in missed] == missed


async def test_two_zones_write_their_catalogs_and_read_each_other_in_one_etcd(cluster: EtcdCluster) -> None:
    async with (
        home_of(cluster, 3) as one,
        home_of(cluster, 4) as two,
        following(two, one.store) as seen_by_one,
        following(one, two.store) as seen_by_two,
    ):
        await asyncio.gather(*(zone.create(f"{zone.zone}-{n}") for n in range(10) for zone in (one, two)))
        await seen_by_one.wait_for(two.own.pair, 10)
        await seen_by_two.wait_for(one.own.pair, 10)
        assert len(names(seen_by_one)) == len(names(seen_by_two)) == 10
        assert seen_by_one.tree.root == two.own.tree.root
        assert seen_by_two.tree.root == one.own.tree.root


async def test_an_agent_takes_an_etcd_with_access_control_for_one_that_nobody_embeds(hostile: EtcdClient) -> None:
    store = EtcdStore(hostile)
    await claim_etcd(store, HOSTILE, embedded=False)
    with pytest.raises(Denied):
        await claim_etcd(store, HOSTILE, embedded=True)


@asynccontextmanager
async def home_of(cluster: EtcdCluster, zone: int) -> AsyncGenerator[Zone, None]:
    """A zone whose catalog lies in the cluster."""
    async with cluster.client(user_of(zone), QUICK) as client, Zone(zone, cast(Any, EtcdStore(client))) as home:
        yield home


@asynccontextmanager
async def far(cluster: EtcdCluster, zone: int) -> AsyncGenerator[tuple[Store, Proxy], None]:
    """The store as a zone sees it whose connection to the cluster can be cut."""
    credentials = cluster.authority.credentials(user_of(zone))
    with Proxy(cluster.members[0].port) as proxy:
        endpoint = f"127.0.0.1:{proxy.port}"
        async with connect([endpoint], QUICK, credentials=credentials) as client:
            yield EtcdStore(client), proxy


@asynccontextmanager
async def following(home: Zone, store: Store) -> AsyncGenerator[Catalog, None]:
    """The catalog of another zone, read where that zone writes it."""
    catalog = Catalog(home.zone, home.keyspace.own, home.key.public, own=False)
    task = asyncio.create_task(catalog.follow(store))
    try:
        yield catalog
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda root: [*root, "--server-name=other.example"], "give the right one by --server-name"),
        (lambda root: [word for word in root if not word.startswith(("--cert", "--key"))], "--ca, --cert and --key"),
        (lambda root: [word for word in root if not word.startswith(("--ca", "--cert", "--key"))], "--ca, --cert and"),
    ],
    ids=["another name", "no certificate", "no TLS"],
)
def test_who_comes_by_the_wrong_tls_is_told_what_to_give(
    cluster: EtcdCluster, capsys: pytest.CaptureFixture[str], wrong: Callable[[list[str]], list[str]], says: str
) -> None:
    command = wrong([*granting(cluster), "--zone-id=1"])
    capsys.readouterr()

    assert run(command) == 6
    assert says in capsys.readouterr().err


def test_only_root_lets_zones_in(cluster: EtcdCluster, capsys: pytest.CaptureFixture[str]) -> None:
    pem, user = cluster.authority, user_of(HOSTILE.zone)
    capsys.readouterr()

    assert run([*granting(cluster), f"--cert={pem.certificate(user)}", f"--key={pem.key(user)}", "--zone-id=2"]) == 5
    assert f"does not take this command from {user}: come as its root" in capsys.readouterr().err
