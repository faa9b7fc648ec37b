"""Fixtures: real etcds for the session, clients of them, every kind of store, and servers that a test may break."""

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest

from federation.etcd.client import EtcdClient, Settings, connect
from federation.store import Store
from tests.support.etcd import VERSIONS, EtcdFactory, EtcdServer, etcd_binary
from tests.support.stores import PAGE_KEYS, Subject, etcd_subject, memory_subject


@pytest.fixture(scope="session")
def etcd_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], EtcdServer]]:
    """Gives this test process's etcd of a version ("": whichever). Shared: stay below `prefix`, and do not break it."""
    servers: dict[str, EtcdServer] = {}

    def started(version: str) -> EtcdServer:
        binary = etcd_binary(version)
        if binary not in servers:
            servers[binary] = EtcdServer(tmp_path_factory.mktemp("etcd"), version=version)
            servers[binary].start()
        return servers[binary]

    yield started
    for server in servers.values():
        server.stop()


@pytest.fixture(scope="session")
def etcd_server(etcd_of: Callable[[str], EtcdServer]) -> EtcdServer:
    """The etcd of this test process. Shared: stay below `prefix`, and do not break it."""
    return etcd_of("")


@pytest.fixture
def etcd_factory(tmp_path: Path) -> Iterator[EtcdFactory]:
    """Starts etcds of the test's own, to be broken at will."""
    servers: list[EtcdServer] = []
    numbers = count()

    def start(*flags: str, version: str = "") -> EtcdServer:
        server = EtcdServer(tmp_path / f"etcd-{next(numbers)}", *flags, version=version)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
async def etcd_client(etcd_server: EtcdServer) -> AsyncIterator[EtcdClient]:
    """A client of the session's etcd."""
    async with connect([etcd_server.endpoint]) as client:
        yield client


@pytest.fixture(params=["memory", *VERSIONS])
async def subject(request: pytest.FixtureRequest, etcd_of: Callable[[str], EtcdServer]) -> AsyncIterator[Subject]:
    """Each kind of store, in turn: the contract of the port holds for all of them."""
    if request.param == "memory":
        yield memory_subject()
        return
    async with connect([etcd_of(request.param).endpoint], Settings(page_keys=PAGE_KEYS)) as client:
        yield etcd_subject(client)


@pytest.fixture
def store(subject: Subject) -> Store:
    """Each kind of store, in turn."""
    return subject.store


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses."""
    return f"/test/{uuid4().hex}/"
