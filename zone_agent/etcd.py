"""The etcd of a zone, as zone.toml says: a child process of the agent, or one that runs elsewhere."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc

from federation.etcd.auth import Login
from federation.etcd.child import ChildSettings, EmbeddedEtcd
from federation.etcd.client import EtcdClient, Settings, dial
from federation.etcd.store import EtcdStore
from federation.keys import Keyspace
from federation.opening import claim_etcd
from federation.store import Store
from fedmarket.errors import BadInput, ConfigError
from fedmarket.units import MIB
from zone_agent.access import password_in, tls_credentials
from zone_agent.config import Config, EtcdSettings
from zone_agent.supervise import Part
from zone_agent.upkeep.alarms import Alarms
from zone_agent.upkeep.health import EtcdHealth

log = logging.getLogger(__name__)

_ADVICE = "see tls_ca, tls_cert, tls_key of [etcd] in zone.toml"


@dataclass(frozen=True, slots=True)
class OpenEtcd:
    """An etcd that answers, and is this zone's to use."""

    store: Store
    keep: Part | None
    """Starts a child process again whenever it exits; None for an etcd that runs elsewhere."""
    health: EtcdHealth
    dial_patiently: Callable[[float], AbstractAsyncContextManager[EtcdClient]]
    """Makes a client whose calls may take so many seconds: for upkeep."""


@asynccontextmanager
async def open_etcd(config: Config, keyspace: Keyspace, alarms: Alarms | None = None) -> AsyncGenerator[OpenEtcd, None]:
    """Start or reach this zone's etcd, and hold it while the context is open. What is wrong with it goes to `alarms`.

    Raises ConfigError if it is another zone's, or held by another agent, or a file that [etcd] names cannot be used,
    Denied if etcd does not let this agent in, and Unavailable if it does not answer.
    """
    async with AsyncExitStack() as stack:
        endpoints, keep = config.etcd.endpoints, None
        if config.etcd.embedded:
            child = await stack.enter_async_context(EmbeddedEtcd(config.layout.etcd, _child_settings(config)))
            endpoints, keep = (child.endpoint,), lambda: _keep(child)
        credentials, login = await asyncio.to_thread(_access, config.etcd)
        server_name = config.etcd.tls_server_name or None
        reach = partial(dial, credentials=credentials, server_name=server_name, login=login)
        settings = Settings(call_seconds=config.timeouts.etcd_call_seconds)
        client = await stack.enter_async_context(reach(endpoints, settings))
        await client.status()
        members = {each: await stack.enter_async_context(reach([each], settings)) for each in endpoints}
        quota = config.etcd.quota_mb * MIB if config.etcd.embedded else 0
        health = EtcdHealth(members, alarms or Alarms(), config.file, quota)
        client.when_full = health.when_full
        store = EtcdStore(client)
        await claim_etcd(store, keyspace, embedded=config.etcd.embedded)
        yield OpenEtcd(store, keep, health, lambda seconds: reach(endpoints, Settings(call_seconds=seconds)))


def _access(etcd: EtcdSettings) -> tuple[grpc.ChannelCredentials | None, Login | None]:
    """Read the files that say who we are and whom we trust; None, None where etcd asks for neither. Blocking."""
    try:
        login = Login(etcd.user, password_in(etcd.password_file)) if etcd.password_file else None
        if etcd.tls_ca is None:
            return None, login
        return tls_credentials(etcd.tls_ca, etcd.tls_cert, etcd.tls_key, _ADVICE), login
    except BadInput as error:
        raise ConfigError(error.message) from error


def _child_settings(config: Config) -> ChildSettings:
    return ChildSettings(
        binary=config.etcd.binary,
        client_port=config.etcd.client_port,
        quota_bytes=config.etcd.quota_mb * MIB,
        compaction_seconds=config.etcd.compaction_seconds,
        start_seconds=config.timeouts.etcd_start_seconds,
        stop_seconds=config.timeouts.shutdown_seconds,
    )


async def _keep(child: EmbeddedEtcd) -> None:
    """Start etcd again whenever it exits."""
    while True:
        status = await child.wait()
        log.error("etcd exited with status %d: starting it again", status)
        await child.start()
