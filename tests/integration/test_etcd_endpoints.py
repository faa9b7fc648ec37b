"""Where etcd is: one endpoint or several, names and addresses, names that move."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest

from federation.etcd import members
from federation.etcd.client import Settings, connect, dial
from federation.etcd.store import EtcdStore
from federation.store import StoreUnavailable
from fedmarket.errors import ConfigError
from fedmarket.retry import Backoff, retry
from tests.support.dns import NameServer
from tests.support.etcd import EtcdFactory, EtcdServer, free_port
from tests.support.etcd_cluster import Authority
from tests.support.stores import put

SETTINGS = Settings(call_seconds=5.0, resolve_seconds=0.1, reconnect=Backoff(first_seconds=0.02, longest_seconds=0.2))


async def test_an_endpoint_may_be_a_host_name(etcd_server: EtcdServer) -> None:
    async with connect([f"localhost:{etcd_server.port}"]) as client:
        assert await EtcdStore(client).get("missing") is None


@pytest.mark.parametrize(
    "down", ["localhost:{}", "[::1]:{}", "no-such-host.invalid:{}"], ids=["down", "of IPv6", "of an unknown name"]
)
async def test_one_of_several_endpoints_is_enough(etcd_server: EtcdServer, down: str) -> None:
    async with connect([down.format(free_port()), etcd_server.endpoint]) as client:
        for _ in range(5):
            assert await EtcdStore(client).get("missing") is None


async def test_several_endpoints_that_are_all_down_are_an_error_that_names_them() -> None:
    endpoints = [f"127.0.0.1:{free_port()}", f"localhost:{free_port()}"]
    with pytest.raises(StoreUnavailable, match=f"etcd at {', '.join(endpoints)} failed to tell .*onnection refused"):
        async with connect(endpoints, Settings(call_seconds=20.0)):
            pass


async def test_a_call_waits_for_one_of_several_that_is_starting(etcd_factory: EtcdFactory) -> None:
    server = etcd_factory()
    server.kill()
    async with dial([f"127.0.0.1:{free_port()}", server.endpoint], Settings(call_seconds=30.0)) as client:
        reading = asyncio.ensure_future(EtcdStore(client).get("a"))
        await server.restart()
        assert await reading is None


async def test_a_call_to_several_that_are_down_ends_by_its_deadline() -> None:
    endpoints = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]
    async with dial(endpoints, Settings(call_seconds=0.2)) as client, asyncio.timeout(30):
        with pytest.raises(StoreUnavailable):
            await EtcdStore(client).get("a")


async def test_a_member_that_does_not_answer_fails_one_call_and_is_left(etcd_factory: EtcdFactory) -> None:
    servers = [etcd_factory(), etcd_factory()]
    async with connect([server.endpoint for server in servers], Settings(call_seconds=1.0)) as client:
        store = EtcdStore(client)
        for frozen in [*servers, *servers]:
            frozen.pause()
            with suppress(StoreUnavailable):  # if calls went to this one
                await store.get("a")
            assert [await store.get("a") for _ in range(10)] == [None] * 10
            frozen.resume()


@pytest.mark.parametrize(
    "endpoint",
    ["", "127.0.0.1", "127.0.0.1:", ":2379", "127.0.0.1:http", "127.0.0.1:0", "h:65536", "http://h:1", "h:-1"],
)
async def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        async with dial([endpoint]):
            pass


async def test_no_endpoint_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        async with dial([]):
            pass


@asynccontextmanager
async def tls_member(directory: Path, authority: Authority) -> AsyncIterator[EtcdServer]:
    """Run an etcd that talks TLS."""
    authority.issue_server()
    server = EtcdServer(
        directory,
        "--client-cert-auth",
        f"--trusted-ca-file={authority.ca}",
        f"--cert-file={authority.certificate('server')}",
        f"--key-file={authority.key('server')}",
        scheme="https",
    )
    await server.restart()
    try:
        yield server
    finally:
        server.stop()


async def test_each_members_certificate_is_held_against_the_host_of_its_own_endpoint(tmp_path: Path) -> None:
    """The certificate bears 127.0.0.1 and not localhost, and no name need be common to all members."""
    authority = Authority(tmp_path / "authority")
    authority.issue_user("root")
    credentials = authority.credentials("root")
    async with tls_member(tmp_path / "etcd", authority) as server:
        named, unnamed = server.endpoint, f"localhost:{server.port}"
        async with connect([unnamed, named], SETTINGS, credentials=credentials) as client:
            for _ in range(5):
                assert await EtcdStore(client).get("a") is None
        with pytest.raises(StoreUnavailable, match="Hostname Verification"):
            async with connect([unnamed], SETTINGS, credentials=credentials):
                pass


@pytest.mark.parametrize("count", [1, 2])
async def test_members_that_moved_to_other_addresses_are_found_by_their_names(
    etcd_factory: EtcdFactory, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """As where members are given new addresses whenever they start: calls and open watches find them."""
    server = etcd_factory()
    with NameServer() as names:
        monkeypatch.setattr(members, "_RESOLVER", f"dns://127.0.0.1:{names.port}")
        hosts = [f"etcd-{number}.example" for number in range(count)]
        names.addresses = dict.fromkeys(hosts, "127.0.0.1")
        async with connect([f"{host}:{server.port}" for host in hosts], SETTINGS) as client:
            store = EtcdStore(client)
            revision = await put(store, "k/before")
            async with aclosing(store.watch("k/", revision)) as watch:
                await anext(watch)
                server.kill()
                server.host = "127.0.0.2"
                await server.restart()
                waiting = asyncio.ensure_future(anext(watch))
                names.addresses = dict.fromkeys(hosts, "127.0.0.2")
                after = await retry(lambda: put(store, "k/after"), attempts=10, backoff=SETTINGS.reconnect)
                async with asyncio.timeout(60):
                    assert (await waiting).revision <= after
