"""The client's side of the command's calls to an agent: a span each, whose context goes along."""

from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

from fedmarket import telemetry
from zone_agent.telemetry.rpc import ClientCall


def observed(channel: grpc.Channel) -> grpc.Channel:
    """Return a channel whose calls have spans; the same one where nobody records any."""
    return grpc.intercept_channel(channel, _Spans()) if telemetry.recording() else channel


class _Details(NamedTuple):
    """What a call is made with. grpc has only an interface for it."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any


class _Spans(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Begins a span with each call, and ends it with its status."""

    def intercept_unary_unary(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """Make a call with one answer."""
        return _call(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """Make a call with a stream of answers."""
        return _call(continuation, client_call_details, request)

    def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Make a call with a stream of requests."""
        return _call(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Make a call that streams both ways."""
        return _call(continuation, client_call_details, request_iterator)


def _call(continuation: Callable[..., Any], details: Any, request: Any) -> Any:
    span = ClientCall(details.method)
    call = continuation(
        _Details(
            details.method,
            details.timeout,
            (*(details.metadata or ()), *span.metadata),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        ),
        request,
    )
    # Called at once for a call that was waited for, and for a stream at its end, in a thread of grpc's.
    call.add_done_callback(lambda ended: span.end(ended.code().name))
    return call
