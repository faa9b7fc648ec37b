"""What every call of the native API passes: authentication, and errors of our tree as gRPC statuses."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import grpc
from grpc import aio

from federation.pulse import Pulse
from fedmarket.errors import FedmarketError, Internal, cause_of
from zone_agent.identity.credentials import Credentials
from zone_agent.services.principal import Principal

log = logging.getLogger(__name__)

OPEN_SERVICES = ("/grpc.health.", "/grpc.reflection.")
"""Answered without credentials: they tell nothing of the zone."""

MAX_MESSAGE = 2000
MAX_DETAIL = 256
"""Characters: status and metadata of a call must fit gRPC's limit for headers together."""

_caller: ContextVar[Principal] = ContextVar("caller")

Context = aio.ServicerContext[Any, Any]


def caller() -> Principal:
    """Return who made the call that is being answered."""
    return _caller.get()


class Gate(aio.ServerInterceptor):
    """Lets in who is known, and gives every error its status, its one sentence and its code."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._open = 0
        self._ended = Pulse()

    async def drain(self, seconds: float) -> None:
        """Wait until every call has ended: one whose client has gone, or is cut off, may still clean up."""
        try:
            async with asyncio.timeout(seconds):
                while self._open:
                    await self._ended.wait()
        except TimeoutError:
            log.warning("%d calls had not ended after %g s", self._open, seconds)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            self._ended.fire()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of a call."""
        handler = await continuation(details)
        if handler is None or details.method.startswith(OPEN_SERVICES):
            return handler
        wrap = self._stream if handler.response_streaming else self._unary
        name = "_".join("stream" if s else "unary" for s in (handler.request_streaming, handler.response_streaming))
        make = getattr(grpc, f"{name}_rpc_method_handler")
        return make(
            wrap(getattr(handler, name)),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _unary(self, behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
        async def answer(request: Any, context: Context) -> Any:
            try:
                self._admit(context)
                with self._counted():
                    return await behaviour(request, context)
            except FedmarketError as error:
                await refuse(context, error)
            except Exception:  # the boundary to the client, which is told no more than this
                log.exception("a call failed")
                await refuse(context, Internal("the agent failed for a reason that is in its log: report it"))

        return answer

    def _stream(
        self, behaviour: Callable[[Any, Context], AsyncIterator[Any]]
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                self._admit(context)
                with self._counted():
                    async for message in behaviour(request, context):
                        yield message
            except FedmarketError as error:
                await refuse(context, error)
            except Exception:  # the boundary to the client, which is told no more than this
                log.exception("a call failed")
                await refuse(context, Internal("the agent failed for a reason that is in its log: report it"))

        return answer

    def _admit(self, context: Context) -> None:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        _caller.set(self._credentials.authenticate(metadata.get("authorization", "")))


async def refuse(context: Context, error: FedmarketError) -> NoReturn:
    """End a call with an error of our tree."""
    cause = cause_of(error)
    trailing = [("fedmarket-code", cause.code)]
    for name, value in error.details.items():
        # Another zone may have chosen the value, and grpc sends nothing at all if it cannot send one entry.
        if value.isascii() and value.isprintable() and 0 < len(value) <= MAX_DETAIL:
            trailing.append((f"fedmarket-{name.replace('_', '-')}", value))
    await context.abort(grpc.StatusCode[cause.grpc], error.message[:MAX_MESSAGE], tuple(trailing))
    raise error
