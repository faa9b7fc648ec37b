"""Fixtures: a real etcd for the session, clients of it, and servers that a test may break."""

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest

from federation.etcd.client import EtcdClient, connect
from tests.support.etcd import EtcdFactory, EtcdServer


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """The etcd of this test process. Shared: stay below `prefix`, and do not break it."""
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def etcd_factory(tmp_path: Path) -> Iterator[EtcdFactory]:
    """Starts etcds of the test's own, to be broken at will."""
    servers: list[EtcdServer] = []
    numbers = count()

    def start(*flags: str) -> EtcdServer:
        server = EtcdServer(tmp_path / f"etcd-{next(numbers)}", *flags)
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


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses."""
    return f"/test/{uuid4().hex}/"
