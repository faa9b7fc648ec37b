"""Pings: often enough to notice a dead connection, and seldom enough for etcd."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from federation.etcd import client as etcd_client
from federation.etcd.client import EtcdClient, Settings, connect
from federation.etcd.store import EtcdStore
from fedmarket.errors import ConfigError
from tests.support.etcd import VERSIONS, EtcdFactory, EtcdServer
from tests.support.stores import pass_time, put
from tests.support.waiting import eventually

PING_SECONDS = 0.5


def test_a_keepalive_that_etcd_would_punish_is_refused() -> None:
    with pytest.raises(ConfigError, match="keepalive"):
        Settings(keepalive_seconds=4.9)


@asynccontextmanager
async def idle_watch(server: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EtcdClient]:
    """Hold a watch on which nothing happens but pings, at a pace that suits a test."""
    monkeypatch.setattr(etcd_client, "_MIN_KEEPALIVE_SECONDS", 0.0)
    settings = Settings(keepalive_seconds=PING_SECONDS, progress_seconds=3600.0)
    async with connect([server.endpoint], settings) as client, aclosing(EtcdStore(client).watch("k/", 1)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        yield client
        revision = await put(EtcdStore(client), "k/last")
        assert (await waiting).revision == revision


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_idle_watch_that_pings_as_often_as_etcd_allows_is_not_thrown_out(
    version: str, etcd_factory: EtcdFactory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = etcd_factory(f"--grpc-keepalive-min-time={PING_SECONDS}s", version=version)
    # The clock is read over another connection, so that the watch's own stays idle.
    async with idle_watch(server, monkeypatch), connect([server.endpoint]) as other:
        await pass_time(other, EtcdStore(other), "/clock/", seconds=5)  # ten pings
    assert "interrupted" not in caplog.text


async def test_etcd_throws_out_who_pings_more_often(
    etcd_factory: EtcdFactory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the bound is for; and what shows that these tests can tell."""
    caplog.set_level(logging.WARNING)
    server = etcd_factory("--grpc-keepalive-min-time=3600s")
    async with idle_watch(server, monkeypatch):
        await eventually(lambda: "too_many_pings" in caplog.text)
