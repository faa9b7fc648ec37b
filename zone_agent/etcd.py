"""The etcd of a zone, as zone.toml says: a child process of the agent, or one that runs elsewhere."""

import asyncio
import logging
import ssl
import stat
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from federation.etcd.auth import Login
from federation.etcd.child import ChildSettings, EmbeddedEtcd
from federation.etcd.client import Settings, connect
from federation.etcd.store import EtcdStore
from federation.keys import Keyspace
from federation.opening import claim_etcd
from federation.store import Store
from fedmarket.errors import ConfigError
from zone_agent.config import Config, EtcdSettings
from zone_agent.supervise import Part

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenEtcd:
    """An etcd that answers, and is this zone's to use."""

    store: Store
    keep: Part | None
    """Starts a child process again whenever it exits; None for an etcd that runs elsewhere."""


@asynccontextmanager
async def open_etcd(config: Config, keyspace: Keyspace) -> AsyncGenerator[OpenEtcd, None]:
    """Start or reach this zone's etcd, and hold it while the context is open.

    Raises ConfigError if it is another zone's, or held by another agent, or a file that [etcd] names cannot be used,
    Denied if etcd does not let this agent in, and Unavailable if it does not answer.
    """
    async with AsyncExitStack() as stack:
        endpoints, keep = config.etcd.endpoints, None
        if config.etcd.embedded:
            child = await stack.enter_async_context(EmbeddedEtcd(config.layout.etcd, _child_settings(config)))
            endpoints, keep = (child.endpoint,), lambda: _keep(child)
        credentials, login = await asyncio.to_thread(_access, config.etcd)
        client = connect(
            endpoints,
            Settings(call_seconds=config.timeouts.etcd_call_seconds),
            credentials=credentials,
            server_name=config.etcd.tls_server_name or None,
            login=login,
        )
        store = EtcdStore(await stack.enter_async_context(client))
        await claim_etcd(store, keyspace, embedded=config.etcd.embedded)
        yield OpenEtcd(store, keep)


def _access(etcd: EtcdSettings) -> tuple[grpc.ChannelCredentials | None, Login | None]:
    """Read the files that say who we are and whom we trust; None, None where etcd asks for neither. Blocking."""
    login = Login(etcd.user, _password(etcd.password_file)) if etcd.password_file else None
    return (_credentials(etcd.tls_ca, etcd.tls_cert, etcd.tls_key) if etcd.tls_ca else None), login


def _credentials(ca: Path, cert: Path | None, key: Path | None) -> grpc.ChannelCredentials:
    """Return the credentials of a TLS client. gRPC takes any bytes and then fails each connection, so ssl looks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(ca)
        if cert is not None:
            context.load_cert_chain(cert, key, password=_no_passphrase)
        return grpc.ssl_channel_credentials(
            ca.read_bytes(), key.read_bytes() if key else None, cert.read_bytes() if cert else None
        )
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the certificates for etcd cannot be used ({error}): see tls_ca, tls_cert, tls_key of [etcd] in zone.toml"
        ) from error


def _no_passphrase() -> str:
    """Answer instead of a person at a terminal, whom OpenSSL would ask for the passphrase of an encrypted key."""
    return ""


def _password(path: Path) -> str:
    try:
        text = path.read_text().rstrip("\n")
        mode = stat.S_IMODE(path.stat().st_mode)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the password file {path} cannot be read ({type(error).__name__}): see [etcd] password_file in zone.toml"
        ) from error
    if mode & 0o077:
        raise ConfigError(f"the password file {path} can be read by others: run chmod 600 {path}")
    if not text or not text.isprintable():
        raise ConfigError(f"the password file {path} does not hold a password on one line: write it anew")
    return text


def _child_settings(config: Config) -> ChildSettings:
    return ChildSettings(
        binary=config.etcd.binary,
        client_port=config.etcd.client_port,
        start_seconds=config.timeouts.etcd_start_seconds,
        stop_seconds=config.timeouts.shutdown_seconds,
    )


async def _keep(child: EmbeddedEtcd) -> None:
    """Start etcd again whenever it exits."""
    while True:
        status = await child.wait()
        log.error("etcd exited with status %d: starting it again", status)
        await child.start()
