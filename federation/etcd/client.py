"""A connection to one etcd cluster: the channel, a deadline on every call, and errors of our tree."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, cast

import grpc
from google.protobuf.message import Message
from grpc import aio

from federation.etcd import errors
from federation.etcd.auth import Login, Session, with_token
from federation.etcd.errors import AuthChanged, NotLoggedIn
from federation.etcd.members import Members, targets
from fedmarket import telemetry
from fedmarket.errors import ConfigError, NoSpace
from fedmarket.pb.etcd import rpc_pb2 as rpc
from fedmarket.pb.etcd import rpc_pb2_grpc as stubs
from fedmarket.retry import Backoff
from fedmarket.telemetry import Kind


class _Answer(Protocol):
    @property
    def header(self) -> rpc.ResponseHeader: ...


Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=_Answer)

_MIN_KEEPALIVE_SECONDS = 5.0  # etcd's default --grpc-keepalive-min-time: who pings more often is thrown out
_MAX_CONNECT_BACKOFF_SECONDS = 2.0
_SYSTEM = {"db.system.name": "etcd"}
_RECONNECT = Backoff(first_seconds=0.1, longest_seconds=5.0)
_RENEWALS = 2  # of the token, within one call: the roles may change once more meanwhile


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
    resolve_seconds: float = 5.0
    """Pace at which the name of a member that cannot be reached is looked up again."""
    login_pause_seconds: float = 5.0
    """How long a refused user and password are not sent again."""
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


@dataclass(slots=True)
class Seen:
    """What etcd's answers have told of the store: who goes on from there later checks that it still holds."""

    cluster_id: int = 0
    """Of the last answer."""
    setbacks: int = 0
    """How often the store was found to be another, or older than it was."""


class EtcdClient:
    """Stubs of etcd's services over one channel. Made by `connect`."""

    def __init__(self, channel: aio.Channel, where: str, settings: Settings, login: Login | None = None) -> None:
        self.where = where
        """The endpoints, as a person knows them."""
        self.settings = settings
        self.seen = Seen()
        self.when_full: Callable[[], Awaitable[str]] | None = None
        """Returns the sentence that says that etcd has no space left, where somebody knows more than etcd tells."""
        log_in = partial(self._log_in, login) if login else None
        self.session = Session(log_in, where, settings.login_pause_seconds)
        """The token that calls and streams carry in their metadata."""
        self.kv = stubs.KVStub(channel)
        self.watch = stubs.WatchStub(channel)
        self.lease = stubs.LeaseStub(channel)
        self.cluster = stubs.ClusterStub(channel)
        self.maintenance = stubs.MaintenanceStub(channel)
        self.auth = stubs.AuthStub(channel)

    def deadline(self) -> float:
        """Return when a call that begins now must have ended, in seconds of the loop's clock."""
        return asyncio.get_running_loop().time() + self.settings.call_seconds

    async def call(
        self,
        method: aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        doing: str,
        wait_for_ready: bool = True,
    ) -> Response:
        """Make one call under the deadline. etcd gets it once at most, not counting those that it turned away.

        `doing` completes "etcd failed to ..." in the message of an error. With `wait_for_ready` the call waits,
        unsent, for a server that is just starting. Raises what the table in `federation.etcd.errors` says.
        """
        deadline = self.deadline()
        token = await self.session.token(deadline)
        for _ in range(_RENEWALS):
            try:
                return await self._send(method, request, token, deadline, doing, wait_for_ready)
            except NotLoggedIn as error:
                if not self.session.forget(token) and not isinstance(error, AuthChanged):
                    raise
            token = await self.session.token(deadline)
        return await self._send(method, request, token, deadline, doing, wait_for_ready)

    async def status(self) -> rpc.StatusResponse:
        """Return the state of the member that answers; raises at once if no connection can be made."""
        return await self.call(
            self.maintenance.Status, rpc.StatusRequest(), doing="tell its status", wait_for_ready=False
        )

    async def _send(
        self,
        method: aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        token: str,
        deadline: float,
        doing: str,
        wait_for_ready: bool,
    ) -> Response:
        timeout = deadline - asyncio.get_running_loop().time()
        try:
            with telemetry.child(f"etcd {type(request).DESCRIPTOR.name}", Kind.CLIENT, _SYSTEM):
                response = await method(
                    request, timeout=timeout, metadata=with_token(token), wait_for_ready=wait_for_ready
                )
        except aio.AioRpcError as error:
            failure = errors.from_rpc(error, doing=doing, where=self.where)
            if isinstance(failure, NoSpace) and self.when_full is not None:
                failure = NoSpace(await self.when_full())
            raise failure from error
        except aio.UsageError as error:
            raise errors.no_answer(f"is no longer connected, so it cannot {doing}", where=self.where) from error
        self.seen.cluster_id = response.header.cluster_id
        return response

    async def _log_in(self, login: Login, deadline: float) -> str:
        request = rpc.AuthenticateRequest(name=login.user, password=login.password)
        doing = f"log in as {login.user!r}"
        response = await self._send(self.auth.Authenticate, request, "", deadline, doing, wait_for_ready=True)
        return response.token


@asynccontextmanager
async def connect(
    endpoints: Sequence[str],
    settings: Settings = DEFAULT_SETTINGS,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str | None = None,
    login: Login | None = None,
) -> AsyncIterator[EtcdClient]:
    """Dial, and check that a member answers.

    Raises StoreUnavailable if none does within the deadline of a call, and Denied if etcd refuses the login.
    """
    async with dial(endpoints, settings, credentials=credentials, server_name=server_name, login=login) as client:
        await client.status()
        yield client


@asynccontextmanager
async def dial(
    endpoints: Sequence[str],
    settings: Settings = DEFAULT_SETTINGS,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str | None = None,
    login: Login | None = None,
) -> AsyncIterator[EtcdClient]:
    """Make a client for the members of one etcd at `endpoints` ("host:port"), which need not answer yet.

    Host names are resolved again whenever their member cannot be reached. With `credentials` the connections use TLS;
    `server_name` is then the name that all certificates must carry, if it is not the host of the endpoint. With
    `login` each call is made as that user. Raises ConfigError if an endpoint is no "host:port".
    """
    options = _options(settings, server_name)

    def open_channel(target: str) -> aio.Channel:
        if credentials is None:
            return aio.insecure_channel(target, options=options)
        return aio.secure_channel(target, credentials, options=options)

    channels = [open_channel(target) for target in targets(endpoints)]
    members = Members(channels)
    try:
        # It does what etcd's stubs ask of a channel; one member needs none of it.
        channel = channels[0] if len(channels) == 1 else cast(aio.Channel, members)
        yield EtcdClient(channel, ", ".join(endpoints), settings, login)
    finally:
        await members.close()


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
        ("grpc.dns_min_time_between_resolutions_ms", int(settings.resolve_seconds * 1000)),
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
