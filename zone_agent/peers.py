"""Calls to other zones: one channel of mutual TLS per peer, made anew before its certificate ends."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import grpc
from grpc import aio

from federation.link.stream import StreamBroken
from federation.trust.tls import Identity
from fedmarket.errors import (
    BadInput,
    Corrupt,
    Denied,
    FedmarketError,
    NotFound,
    Refused,
    Timeout,
    TooLarge,
    Unavailable,
)
from fedmarket.pb.fedmarket.v1.peer_pb2 import (
    Commit,
    ForwardRequest,
    ForwardResponse,
    FromSink,
    FromSource,
    LocateRequest,
    LocateResponse,
    RecoverRequest,
    SettleRequest,
)
from fedmarket.pb.fedmarket.v1.peer_pb2_grpc import PeerServiceStub
from zone_agent.telemetry.grpc_client import interceptors

MAX_MESSAGE_BYTES = 2 << 20
"""docs/replication.md: messages between zones are at most this large."""

_ERRORS: Mapping[grpc.StatusCode, type[FedmarketError]] = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: Refused,
    grpc.StatusCode.DATA_LOSS: Corrupt,
    grpc.StatusCode.DEADLINE_EXCEEDED: Timeout,
    grpc.StatusCode.UNAUTHENTICATED: Denied,
    grpc.StatusCode.PERMISSION_DENIED: Denied,
    grpc.StatusCode.INVALID_ARGUMENT: BadInput,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooLarge,
}


@dataclass(frozen=True, slots=True)
class PeerTimeouts:
    """Bounds of calls to other zones, in seconds."""

    call: float
    connect: float
    silence: float
    """Of a stream."""


class Peers:
    """Dials the peers of zone.toml. Whoever made it calls `close` at the end."""

    def __init__(self, identity: Identity, addresses: Mapping[int, str], timeouts: PeerTimeouts) -> None:
        self._identity = identity
        self._addresses = dict(addresses)
        self._timeouts = timeouts
        self._channels: dict[int, tuple[aio.Channel, datetime]] = {}

    async def close(self) -> None:
        """Close every channel."""
        channels, self._channels = self._channels, {}
        for channel, _ in channels.values():
            await channel.close()

    def address(self, zone: int) -> str:
        """Return where a peer is dialled."""
        return self._addresses[zone]

    async def move(self, zone: int, address: str) -> None:
        """Dial a peer at another address from now on. Calls that are under way have their time to end."""
        self._addresses[zone] = address
        known = self._channels.pop(zone, None)
        if known is not None:
            await known[0].close(self._timeouts.call)

    def limit(self, timeouts: PeerTimeouts) -> None:
        """Bound calls by other times from now on."""
        self._timeouts = timeouts

    async def locate(self, zone: int, app_id: int) -> LocateResponse:
        """Ask a zone where the bytes of one of its apps are. Raises Unavailable if it cannot be reached."""
        stub = PeerServiceStub(await self._channel(zone))
        try:
            return await stub.Locate(LocateRequest(app_id=app_id), timeout=self._timeouts.call)
        except aio.AioRpcError as error:
            raise self._failure(zone, error) from error

    async def reach(self, zone: int) -> None:
        """Make sure that there is a connection to a zone. Raises Unavailable: then nothing was sent."""
        if not await self._is_reached(await self._channel(zone)):
            raise Unavailable(
                f"no connection to {self._addresses[zone]}: try again when it is up, and trusts this zone"
            )

    async def forward(self, zone: int, request: ForwardRequest) -> ForwardResponse:
        """Ask a zone for a change of one of its records. Raises Unavailable: then it may or may not be made."""
        stub = PeerServiceStub(await self._channel(zone))
        return await self._answer(zone, stub.Forward(request, timeout=self._timeouts.call))

    async def settle(self, zone: int, request: SettleRequest) -> ForwardResponse:
        """Ask what became of a change that was forwarded. Raises Unavailable."""
        stub = PeerServiceStub(await self._channel(zone))
        return await self._answer(zone, stub.Settle(request, timeout=self._timeouts.call))

    async def _answer(self, zone: int, call: Awaitable[ForwardResponse]) -> ForwardResponse:
        try:
            return await call
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise Refused(f"zone {zone} does not take changes from other zones yet: upgrade its agent") from error
            raise self._failure(zone, error) from error

    async def recover(self, zone: int) -> AsyncGenerator[Commit, None]:
        """Yield what a zone holds of our own catalog. Raises NotFound if it holds none, Unavailable on silence."""
        call = PeerServiceStub(await self._channel(zone)).Recover(RecoverRequest())
        try:
            while True:
                async with asyncio.timeout(self._timeouts.call):
                    message = await call.read()
                if not isinstance(message, Commit):
                    return
                yield message
        except aio.AioRpcError as error:
            raise self._failure(zone, error) from error
        except TimeoutError as error:
            raise Timeout(
                f"zone {zone} at {self._addresses[zone]} said nothing for {self._timeouts.call:g} s: try again"
            ) from error
        finally:
            call.cancel()

    @asynccontextmanager
    async def follow(self, zone: int) -> AsyncGenerator["PeerStream", None]:
        """Open a stream on which a zone tells its catalog. Raises StreamBroken."""
        channel = await self._channel(zone)
        if not await self._is_reached(channel):
            raise StreamBroken(
                f"no connection to {self._addresses[zone]}: it is down, cannot be reached, or does not trust this zone"
            )
        call = PeerServiceStub(channel).Follow()
        try:
            yield PeerStream(call)
        finally:
            call.cancel()

    async def _is_reached(self, channel: aio.Channel) -> bool:
        try:
            async with asyncio.timeout(self._timeouts.connect):
                return await _connected(channel)
        except TimeoutError:
            return False

    def _failure(self, zone: int, error: aio.AioRpcError) -> FedmarketError:
        """Return what to raise for a call that failed."""
        cls = _ERRORS.get(error.code(), Unavailable)
        if issubclass(cls, Unavailable):
            return cls(f"zone {zone} at {self._addresses[zone]} does not answer ({error.details()}): try again")
        return cls(error.details() or f"zone {zone} refused")

    async def _channel(self, zone: int) -> aio.Channel:
        known = self._channels.get(zone)
        if known is not None and self._identity.now() < known[1]:
            return known[0]
        credentials = self._identity.channel_credentials(zone)
        options = [
            *credentials.options,
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", int(self._timeouts.silence * 1000)),
            ("grpc.keepalive_timeout_ms", int(self._timeouts.silence * 1000)),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        channel = aio.secure_channel(
            self._addresses[zone], credentials.credentials, options=options, interceptors=interceptors()
        )
        self._channels[zone] = (channel, credentials.renew_at)
        if known is not None:
            await known[0].close()
        return channel


class PeerStream:
    """A stream of the peer API, from the follower's side."""

    def __init__(self, call: "aio.StreamStreamCall[FromSink, FromSource]") -> None:
        self._call = call

    async def send(self, message: FromSink) -> None:
        """Send to the peer. Raises StreamBroken."""
        try:
            await self._call.write(message)
        except (aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise StreamBroken(_reason(error)) from error

    async def receive(self) -> FromSource:
        """Return what the peer says next. Raises StreamBroken."""
        try:
            message = await self._call.read()
        except (aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise StreamBroken(_reason(error)) from error
        if not isinstance(message, FromSource):
            raise StreamBroken("the peer closed the stream")
        return message


async def _connected(channel: aio.Channel) -> bool:
    """Wait until there is a connection; False once the first attempt has failed.

    A channel that has failed before goes on trying by itself, and does not tell of attempts that fail.
    """
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        failed_before = state is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and not failed_before:
            return False
    return True


def _reason(error: Exception) -> str:
    details = error.details() if isinstance(error, aio.AioRpcError) else None
    return f"the stream broke: {details}" if details else "the stream broke"
