"""What spans of gRPC calls are called and carry, on both sides.

Names as in https://opentelemetry.io/docs/specs/semconv/rpc/grpc/.
"""

from contextvars import copy_context

from fedmarket import telemetry
from fedmarket.telemetry import Attributes, Kind

TRACEPARENT = "traceparent"
"""The metadata that carries the context of a span to the server."""
CODE = "rpc.response.status_code"


def attributes_of(method: str) -> Attributes:
    """Return what a span tells of a call of `/package.Service/Method`."""
    return {"rpc.system": "grpc", "rpc.method": method[1:]}


class ClientCall:
    """The span of a call from the client's side, which may end in another thread or task than it began in."""

    def __init__(self, method: str) -> None:
        # The span is the current one in a context of its own only, so that it can be left from anywhere.
        self._context = copy_context()
        self._recorded = telemetry.span(method[1:], Kind.CLIENT, attributes_of(method))
        self._span = self._context.run(self._recorded.__enter__)
        self._ended = False

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What the call must carry."""
        traceparent = self._context.run(telemetry.traceparent)
        return ((TRACEPARENT, traceparent),) if traceparent else ()

    def end(self, code: str) -> None:
        """End the span with the name of the call's status."""
        if self._ended:
            return
        self._ended = True
        self._span.set(CODE, code)
        if code != "OK":
            self._span.fail(code)
        self._context.run(self._recorded.__exit__, None, None, None)
