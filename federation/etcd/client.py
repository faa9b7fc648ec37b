"""A connection to one etcd cluster: the channel, a deadline on every call, and errors of our tree."""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio

from federation.etcd import errors
from fedmarket.errors import ConfigError
from fedmarket.pb.etcd import rpc_pb2 as rpc
from fedmarket.pb.etcd import rpc_pb2_grpc as stubs
from fedmarket.retry import Backoff

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

_MIN_KEEPALIVE_SECONDS = 5.0  # etcd's default --grpc-keepalive-min-time: who pings more often is thrown out
_MAX_CONNECT_BACKOFF_SECONDS = 2.0
_RECONNECT = Backoff(first_seconds=0.1, longest_seconds=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Bounds of everything that the client waits for, and sizes."""

    call_seconds: float = 5.0
    """Deadline of each call; longer than an election of etcd's leader takes (1-2 s), which then is no error."""
    keepalive_seconds: float = 10.0
    """Silence on a connection after which it is pinged; 5 or more."""
    keepalive_timeout_seconds: float = 5.0
    """Time for the answer to a ping, after which the connection counts as dead."""
    progress_seconds: float = 5.0
    """Silence of a watch after which the server is asked whether it is still there."""
    silence_seconds: float = 5.0
    """Time for the answer to that question, after which the watch connects anew."""
    reconnect: Backoff = _RECONNECT
    """Pace at which a watch connects anew."""
    max_message_bytes: int = 64 * 2**20
    """Largest answer that is taken; a page of a snapshot that is larger is asked for in smaller pages."""
    page_keys: int = 1000
    """Keys of one page of a snapshot."""
    snapshot_attempts: int = 5
    """How often a snapshot that compaction overtakes is begun before it is given up."""

    def __post_init__(self) -> None:
        if self.keepalive_seconds < _MIN_KEEPALIVE_SECONDS:
            raise ConfigError(
                f"the etcd keepalive of {self.keepalive_seconds} s is shorter than the {_MIN_KEEPALIVE_SECONDS:.0f} s "
                "that etcd accepts from a client: set it to that or more"
            )


DEFAULT_SETTINGS = Settings()


class EtcdClient:
    """Stubs of etcd's services over one channel. Made by `connect`."""

    def __init__(self, channel: aio.Channel, where: str, settings: Settings) -> None:
        self.where = where
        """The endpoints, as a person knows them."""
        self.settings = settings
        self.kv = stubs.KVStub(channel)
        self.watch = stubs.WatchStub(channel)
        self.lease = stubs.LeaseStub(channel)
        self.cluster = stubs.ClusterStub(channel)
        self.maintenance = stubs.MaintenanceStub(channel)

    async def call(
        self,
        method: aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        doing: str,
        wait_for_ready: bool = True,
    ) -> Response:
        """Make one call under the deadline. It is sent once at most.

        `doing` completes "etcd failed to ..." in the message of an error. With `wait_for_ready` the call waits,
        unsent, for a server that is just starting. Raises what the table in `federation.etcd.errors` says.
        """
        try:
            return await method(request, timeout=self.settings.call_seconds, wait_for_ready=wait_for_ready)
        except aio.AioRpcError as error:
            raise errors.from_rpc(error, doing=doing, where=self.where) from error
        except aio.UsageError as error:
            raise errors.no_answer(f"is no longer connected, so it cannot {doing}", where=self.where) from error

    async def status(self) -> rpc.StatusResponse:
        """Return the state of the member that answers; raises at once if no connection can be made."""
        return await self.call(
            self.maintenance.Status, rpc.StatusRequest(), doing="tell its status", wait_for_ready=False
        )


@asynccontextmanager
async def connect(
    endpoints: Sequence[str],
    settings: Settings = DEFAULT_SETTINGS,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str | None = None,
) -> AsyncIterator[EtcdClient]:
    """Dial, and check that a member answers. Raises StoreUnavailable if none does within the deadline of a call."""
    async with dial(endpoints, settings, credentials=credentials, server_name=server_name) as client:
        await client.status()
        yield client


@asynccontextmanager
async def dial(
    endpoints: Sequence[str],
    settings: Settings = DEFAULT_SETTINGS,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str | None = None,
) -> AsyncIterator[EtcdClient]:
    """Make a client for the members of one etcd at `endpoints` ("host:port"), which need not answer yet.

    Host names of several endpoints are resolved now, once. With `credentials` the connection uses TLS;
    `server_name` is then the name that the certificates must carry, if it is not the host's.
    Raises ConfigError if an endpoint is no "host:port" or its name cannot be resolved.
    """
    target = await _target(endpoints)
    options = _options(settings, server_name)
    if credentials is None:
        channel = aio.insecure_channel(target, options=options)
    else:
        channel = aio.secure_channel(target, credentials, options=options)
    async with channel:
        yield EtcdClient(channel, ", ".join(endpoints), settings)


def _options(settings: Settings, server_name: str | None) -> list[tuple[str, str | int]]:
    options: list[tuple[str, str | int]] = [
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.keepalive_time_ms", int(settings.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout_seconds * 1000)),
        # Pings go on for as long as a watch is open, but not without a call: etcd counts those as abuse.
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", int(_MAX_CONNECT_BACKOFF_SECONDS * 1000)),
        # Although named so, this bounds one attempt to connect.
        ("grpc.min_reconnect_backoff_ms", int(settings.call_seconds * 1000)),
        # A transaction is sent once: gRPC itself must not repeat it either.
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        # Closing the client closes its connections.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return options


async def _target(endpoints: Sequence[str]) -> str:
    """Return gRPC's name for all endpoints together.

    A single host name is left to gRPC, which resolves it again when a connection fails. gRPC has no target of
    several names, so these become addresses, of one family.
    """
    pairs = [_host_and_port(endpoint) for endpoint in endpoints]
    if not pairs:
        raise ConfigError("no etcd endpoint is given: set at least one as host:port")
    if len(pairs) == 1 and not _is_address(pairs[0][0]):
        return f"dns:///{pairs[0][0]}:{pairs[0][1]}"
    resolved = [await _resolve(host, port) for host, port in pairs]
    for family, scheme in ((socket.AF_INET, "ipv4"), (socket.AF_INET6, "ipv6")):
        if all(family in addresses for addresses in resolved):
            return f"{scheme}:" + ",".join(addresses[family] for addresses in resolved)
    raise ConfigError(f"the etcd endpoints {', '.join(endpoints)} mix IPv4 and IPv6: give all of one family")


def _host_and_port(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"the etcd endpoint {endpoint!r} is not host:port: write it like 127.0.0.1:2379")
    return host, int(port)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _resolve(host: str, port: int) -> dict[int, str]:
    """Return one `address:port` of the host for each address family that it has."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"the etcd host {host!r} cannot be resolved ({error}): check [etcd] endpoints") from error
    addresses: dict[int, str] = {}
    for family, _, _, _, address in found:
        written = f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}"
        addresses.setdefault(family, written)
    return addresses
