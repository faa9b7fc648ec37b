"""The server's side of every gRPC call, native and between zones: a span that goes on the caller's, and its metrics.

Our own, because the instrumentation that OpenTelemetry publishes for gRPC is a beta that patches grpc, and because one
interceptor then does both. docs/adr/0012-telemetry.md.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import cache
from typing import Any, Self

import grpc
from grpc import aio

from fedmarket import telemetry
from fedmarket.telemetry import Kind
from zone_agent.telemetry.instruments import REQUEST_SECONDS, REQUESTS
from zone_agent.telemetry.rpc import CODE, TRACEPARENT, attributes_of

SILENT = ("/grpc.health.", "/grpc.reflection.")
"""Not observed: what asks every second whether the agent lives says nothing about its work."""
LASTING = frozenset({"/fedmarket.v1.PeerService/Follow"})
"""No span: it would end after days. What comes over it has spans of its own."""

_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Statuses that are the server's failure; the others are answers."""

# As many as there are methods and outcomes: to look one up by its labels costs as much as to count.
_counter = cache(REQUESTS.labels)
_timer = cache(REQUEST_SECONDS.labels)

Context = aio.ServicerContext[Any, Any]


class Observer(aio.ServerInterceptor):
    """Observes each call of one API. It stands outside of all other interceptors, so that it sees what they refuse."""

    def __init__(self, api: str) -> None:
        self._api = api
        self._wrapped: dict[str, Any] = {}
        """The handlers of methods that there are. The interceptors within wrap each of them the same way every time."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of a call."""
        known = self._wrapped.get(details.method)
        if known is not None:
            return known
        handler = await continuation(details)
        if handler is None or details.method.startswith(SILENT):
            return handler
        self._wrapped[details.method] = wrapped = self._wrap(handler, details.method)
        return wrapped

    def _wrap(self, handler: Any, method: str) -> Any:
        name = "_".join("stream" if s else "unary" for s in (handler.request_streaming, handler.response_streaming))
        wrap = self._stream if handler.response_streaming else self._unary
        return getattr(grpc, f"{name}_rpc_method_handler")(
            wrap(getattr(handler, name), method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _unary(
        self, behaviour: Callable[[Any, Context], Awaitable[Any]], method: str
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        async def answer(request: Any, context: Context) -> Any:
            with _Observed(self._api, method, context):
                return await behaviour(request, context)

        return answer

    def _stream(
        self, behaviour: Callable[[Any, Context], Any], method: str
    ) -> Callable[[Any, Context], Awaitable[None]]:
        # Not a generator: grpc may drop one half way, and its span would end in some other task, if at all.
        async def answer(request: Any, context: Context) -> None:
            with _Observed(self._api, method, context):
                answers = behaviour(request, context)
                if inspect.isawaitable(answers):
                    await answers  # it writes to the stream itself
                else:
                    await _write_all(answers, context)

        return answer


class _Observed:
    """One call, while it is answered."""

    __slots__ = ("_api", "_began", "_context", "_method", "_recorded", "_span")

    def __init__(self, api: str, method: str, context: Context) -> None:
        self._api = api
        self._method = method
        self._context = context
        self._recorded = None
        if telemetry.recording() and method not in LASTING:
            self._recorded = telemetry.span(method[1:], Kind.SERVER, attributes_of(method), parent=_parent(context))

    def __enter__(self) -> Self:
        self._span = self._recorded.__enter__() if self._recorded else None
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        seconds = time.perf_counter() - self._began
        code = _outcome(self._context, error)
        method = self._method[1:]
        _counter(self._api, method, code).inc()
        _timer(self._api, method).observe(seconds)
        if self._recorded is not None and self._span is not None:
            self._span.set(CODE, code)
            if code in _FAULTS:
                self._span.fail(code)
            # Without the exception: what the caller is told of it is the status.
            self._recorded.__exit__(None, None, None)


async def _write_all(answers: AsyncIterator[Any], context: Context) -> None:
    async with aclosing(answers) as open_answers:  # type: ignore[type-var]  # a generator, by grpc's own rule
        async for message in open_answers:
            await context.write(message)


def _outcome(context: Context, error: BaseException | None) -> str:
    if error is None or isinstance(error, aio.AbortError):
        code: Any = context.code()
        return code.name if isinstance(code, grpc.StatusCode) else _NAMES.get(code or 0, "UNKNOWN")
    return "CANCELLED" if isinstance(error, asyncio.CancelledError) else "UNKNOWN"


def _parent(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == TRACEPARENT and isinstance(value, str):
            return value
    return ""
