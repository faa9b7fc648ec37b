"""The client's side of calls to other zones: a span each, whose context goes along."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
from grpc import aio

from fedmarket import telemetry
from zone_agent.telemetry.rpc import ClientCall

Details = aio.ClientCallDetails

CANCELLED = grpc.StatusCode.CANCELLED.name


def interceptors() -> Sequence[aio.ClientInterceptor]:
    """Return what a new channel is made with: nothing, where nobody records spans."""
    return [_OneAnswer(), _Answers()] if telemetry.recording() else []


class _OneAnswer(aio.UnaryUnaryClientInterceptor):
    """Calls with one answer."""

    async def intercept_unary_unary(
        self, continuation: Callable[[Details, Any], Awaitable[Any]], client_call_details: Details, request: Any
    ) -> Any:
        """Make the call, and stay until it has ended."""
        span = ClientCall(_method(client_call_details))
        code, call = CANCELLED, None
        try:
            call = await continuation(_with(client_call_details, span), request)
            code = (await call.code()).name
        except asyncio.CancelledError:
            if call is not None:
                call.cancel()  # grpc leaves that to whoever waits for it
            raise
        finally:
            span.end(code)
        return call


class _Answers(aio.UnaryStreamClientInterceptor):
    """Calls with a stream of answers. One that lasts as long as a link (`Follow`) streams both ways: it has no span."""

    async def intercept_unary_stream(
        self, continuation: Callable[[Details, Any], Awaitable[Any]], client_call_details: Details, request: Any
    ) -> Any:
        """Make the call; its span ends with its stream."""
        span = ClientCall(_method(client_call_details))
        try:
            call = await continuation(_with(client_call_details, span), request)
        except asyncio.CancelledError:
            span.end(CANCELLED)
            raise
        return _until_the_end(call, span)


async def _until_the_end(call: AsyncIterator[Any], span: ClientCall) -> AsyncIterator[Any]:
    code = CANCELLED
    try:
        async for answer in call:
            yield answer
        code = grpc.StatusCode.OK.name
    except aio.AioRpcError as error:
        code = error.code().name
        raise
    finally:
        span.end(code)


def _method(details: Details) -> str:
    method: str | bytes = details.method
    return method.decode() if isinstance(method, bytes) else method


def _with(details: Details, span: ClientCall) -> Details:
    metadata = aio.Metadata(*(details.metadata or ()), *span.metadata)
    return Details(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)
