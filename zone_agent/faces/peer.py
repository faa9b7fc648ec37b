"""What other zones may ask: to follow this zone's catalog, where the bytes of its apps are, and changes of its records.

All by mutual TLS only.

TLS lets in whoever holds a certificate that some pinned key issued; which zone it is, is checked here, at each call.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from grpc import aio

from federation.catalog import Catalog
from federation.link.ring import Ring
from federation.link.serve import ServeSettings, serve
from federation.link.source import Source
from federation.link.stream import StreamBroken, Witness
from federation.recall import messages_of
from federation.trust.tls import Identity
from fedmarket.errors import FedmarketError, NotFound
from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead
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
from fedmarket.pb.fedmarket.v1.peer_pb2_grpc import PeerServiceServicer, add_PeerServiceServicer_to_server
from zone_agent.config import PeerSettings
from zone_agent.faces.native.gate import refuse
from zone_agent.faces.native.server import bind
from zone_agent.peers import MAX_MESSAGE_BYTES
from zone_agent.services.changes import ChangeService
from zone_agent.services.locate import Locator
from zone_agent.telemetry.grpc_server import Observer


class PeerFace(PeerServiceServicer):
    """fedmarket.v1.PeerService, on its own port."""

    def __init__(
        self,
        identity: Identity,
        own: Catalog,
        ring: Ring,
        replicas: Mapping[int, Catalog],
        locator: Locator,
        changes: ChangeService,
        witness: Witness,
        serving: ServeSettings,
    ) -> None:
        self._identity = identity
        self._own = own
        self._ring = ring
        self._replicas = replicas
        self._locator = locator
        self._changes = changes
        self._witness = witness
        self._serving = serving

    @asynccontextmanager
    async def serve(self, settings: PeerSettings) -> AsyncGenerator[int, None]:
        """Serve while the context is open; gives the port. Raises ConfigError if the address cannot be used."""
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
        server = aio.server(interceptors=[Observer("peer")], options=options)
        add_PeerServiceServicer_to_server(self, server)
        port = bind(server, str(settings.listen), self._identity.server_credentials(), "[peer] listen")
        await server.start()
        try:
            yield port
        finally:
            await server.stop(None)  # followers dial again: nothing of theirs is lost

    async def Follow(  # type: ignore[override] # reads and writes the stream itself, which grpc.aio also takes
        self, request_iterator: AsyncIterator[FromSink], context: Any
    ) -> None:
        """Tell a zone this zone's catalog."""
        zone = await self._caller(context)
        source = Source(self._ring, zone, lambda: self._newest_of(zone))
        await serve(source, _Stream(context), self._own.pulse, self._witness, self._serving)

    async def Locate(self, request: LocateRequest, context: Any) -> LocateResponse:
        """Tell a zone where the bytes of an app are."""
        try:
            self._identity.caller(context)
            return self._locator.for_peer(request.app_id)
        except FedmarketError as error:
            await refuse(context, error)

    async def Recover(self, request: RecoverRequest, context: Any) -> AsyncIterator[Commit]:
        """Give a zone its own catalog back, as this zone holds it."""
        try:
            zone = self._identity.caller(context)
            replica = self._replicas.get(zone)
            if replica is None or replica.state is None:
                raise NotFound(f"zone {self._own.home} holds no whole copy of the catalog of zone {zone}: ask another")
            for message in messages_of(replica.state.head, replica.state.tree):
                yield message
        except FedmarketError as error:
            await refuse(context, error)

    async def Forward(self, request: ForwardRequest, context: Any) -> ForwardResponse:
        """Decide a change of a record of this zone that was asked for in another one."""
        return await self._changes.decide_for_peer(await self._caller(context), request)

    async def Settle(self, request: SettleRequest, context: Any) -> ForwardResponse:
        """Tell a zone what became of a change that it forwarded."""
        return await self._changes.settle_for_peer(await self._caller(context), request.request_id)

    async def _caller(self, context: Any) -> int:
        """Return the zone that calls; one that TLS let in and that is none of ours is refused."""
        try:
            return self._identity.caller(context)
        except FedmarketError as error:
            await refuse(context, error)

    def _newest_of(self, zone: int) -> SignedHead | None:
        replica = self._replicas.get(zone)
        return replica.state.head.signed if replica is not None and replica.state is not None else None


class _Stream:
    """A stream of the peer API, from the home's side."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def send(self, message: FromSource) -> None:
        """Send to the follower. Raises StreamBroken."""
        try:
            await self._context.write(message)
        except (aio.AbortError, aio.UsageError, RuntimeError) as error:
            raise StreamBroken(str(error)) from error

    async def receive(self) -> FromSink:
        """Return what the follower says next. Raises StreamBroken."""
        try:
            message = await self._context.read()
        except (aio.AbortError, aio.UsageError, RuntimeError) as error:
            raise StreamBroken(str(error)) from error
        if not isinstance(message, FromSink):
            raise StreamBroken("the follower closed the stream")
        return message
