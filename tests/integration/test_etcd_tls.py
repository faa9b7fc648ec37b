"""An etcd with TLS, client certificates and access control: what a zone may do in an etcd that it shares."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest

from federation.etcd.client import Settings, connect
from federation.etcd.store import EtcdStore
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import Denied
from fedmarket.pb.etcd import auth_pb2 as auth
from tests.support.etcd import VERSIONS, EtcdServer
from tests.support.etcd_cluster import Authority
from tests.support.etcd_users import add_role, add_user, enable, let_in, permit

OWN, SHARED, FOREIGN = "/fedmarket/1/catalog/0/", "/fedmarket/1/catalog/", "/fedmarket/1/zone/100/"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "authority")
    authority.issue_server()
    for user in ("root", "zone-0"):
        authority.issue_user(user)
    return authority


@pytest.fixture(params=VERSIONS)
async def server(request: pytest.FixtureRequest, authority: Authority, tmp_path: Path) -> AsyncIterator[EtcdServer]:
    """An etcd in which zone-0 may write its own catalog and read all catalogs."""
    server = EtcdServer(
        tmp_path / "etcd",
        "--client-cert-auth",
        f"--trusted-ca-file={authority.ca}",
        f"--cert-file={authority.certificate('server')}",
        f"--key-file={authority.key('server')}",
        scheme="https",
        version=request.param,
    )
    server.start()
    try:
        async with connect([server.endpoint], credentials=authority.credentials("root")) as client:
            for user in ("root", "zone-0"):
                await add_user(client, user)
            await add_role(client, "zone-0")
            await permit(client, OWN, "zone-0")
            await permit(client, SHARED, "zone-0", auth.Permission.READ)
            await let_in(client, "zone-0", "zone-0")
            await enable(client)
        yield server
    finally:
        server.stop()


async def test_a_zone_writes_and_watches_its_own_catalog(server: EtcdServer, authority: Authority) -> None:
    async with connect([server.endpoint], credentials=authority.credentials("zone-0")) as client:
        store = EtcdStore(client)
        result = await store.txn(Txn({}, puts={OWN + "head": b"v"}))
        assert [item.key for item in (await store.snapshot(SHARED)).items] == [OWN + "head"]
        async with aclosing(store.watch(SHARED, result.revision)) as watch:
            assert (await anext(watch)).changes[0].key == OWN + "head"


async def test_a_zone_is_denied_what_belongs_to_others(server: EtcdServer, authority: Authority) -> None:
    async with connect([server.endpoint], credentials=authority.credentials("zone-0")) as client:
        store = EtcdStore(client)
        with pytest.raises(Denied):
            await store.get(FOREIGN + "secret")
        with pytest.raises(Denied):
            await store.snapshot(FOREIGN)
        with pytest.raises(Denied):
            await store.txn(Txn({}, puts={OWN + "mine": b"v", FOREIGN + "theirs": b"v"}))
        assert await store.get(OWN + "mine") is None
        async with aclosing(store.watch(FOREIGN, 1)) as watch:
            with pytest.raises(Denied):
                await anext(watch)


async def test_a_client_without_a_certificate_is_told_that_etcd_does_not_answer(
    server: EtcdServer, authority: Authority
) -> None:
    nobody = grpc.ssl_channel_credentials(authority.ca.read_bytes())
    with pytest.raises(StoreUnavailable):
        async with connect([server.endpoint], Settings(call_seconds=2.0), credentials=nobody):
            pass


async def test_a_server_of_another_authority_is_not_trusted(server: EtcdServer, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    other.issue_user("zone-0")
    with pytest.raises(StoreUnavailable):
        async with connect([server.endpoint], Settings(call_seconds=2.0), credentials=other.credentials("zone-0")):
            pass


async def test_a_name_in_the_certificates_may_be_given_where_it_is_not_the_hosts(
    server: EtcdServer, authority: Authority
) -> None:
    credentials = authority.credentials("zone-0")
    async with connect([f"localhost:{server.port}"], credentials=credentials, server_name="127.0.0.1") as client:
        assert await EtcdStore(client).get(OWN + "missing") is None


async def test_a_certificate_for_another_name_is_not_trusted(server: EtcdServer, authority: Authority) -> None:
    credentials = authority.credentials("zone-0")
    with pytest.raises(StoreUnavailable):
        async with connect(
            [server.endpoint], Settings(call_seconds=2.0), credentials=credentials, server_name="other.example"
        ):
            pass
