"""Spans, as the layers say them that know nothing of OpenTelemetry, and the trace context that goes between processes.

Until a process has installed a recorder, a span is one shared object that does nothing: the price of telemetry that
nobody asked for is a comparison and two empty calls, and OpenTelemetry is not even imported. What a span is told
(names, attributes, failures) is read by people who run collectors: never a secret, never a signed URL.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from functools import wraps
from types import TracebackType
from typing import NamedTuple, ParamSpec, Protocol, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MAX_TRACES = 16
"""Trace contexts that one commit carries."""

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_MAX_TRACEPARENT = 256
_SAMPLED = 1

Value = str | int | float | bool
Attributes = Mapping[str, Value]


class Kind(Enum):
    """What a span is to the one on the other side of a call."""

    INTERNAL = "internal"
    CLIENT = "client"
    SERVER = "server"


class Span(Protocol):
    """Work that is being done."""

    def set(self, name: str, value: Value) -> None:
        """Note an attribute."""

    def fail(self, why: str) -> None:
        """Note that the work failed, where no exception says so."""


class Recorder(Protocol):
    """Where spans go: zone_agent/telemetry/tracing.py, or a list of a test."""

    def span(
        self, name: str, kind: Kind, parent: str, links: Sequence[str], attributes: Attributes
    ) -> AbstractContextManager[Span]:
        """Return a context that is a span while it lasts, and the current one. An exception that leaves it fails it."""

    def traceparent(self) -> str:
        """Return the context of the current span; empty without one."""


class TraceContext(NamedTuple):
    """A span of some process, by its W3C traceparent (https://www.w3.org/TR/trace-context/#traceparent-header)."""

    trace_id: int
    span_id: int
    flags: int

    @property
    def sampled(self) -> bool:
        """Whether whoever made it records it."""
        return bool(self.flags & _SAMPLED)


class _Nothing:
    """The span of a process that records none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def set(self, name: str, value: Value) -> None:
        """Do nothing."""

    def fail(self, why: str) -> None:
        """Do nothing."""


_NOTHING = _Nothing()
_NO_ATTRIBUTES: Attributes = {}
_recorder: Recorder | None = None


def install(recorder: Recorder | None) -> None:
    """Let a recorder have the spans of this process from now on; None: nobody."""
    global _recorder  # noqa: PLW0603 - spans are of the process, as logs are
    _recorder = recorder


def recording() -> bool:
    """Say whether anybody records spans: for callers to whom their attributes are work."""
    return _recorder is not None


def span(
    name: str,
    kind: Kind = Kind.INTERNAL,
    attributes: Attributes = _NO_ATTRIBUTES,
    *,
    parent: str = "",
    links: Sequence[str] = (),
) -> AbstractContextManager[Span]:
    """Return a context that is a span while it lasts; of the current span's trace, unless a `parent` is given.

    `name` is one of a few: what differs from one time to the next is an attribute. `parent` and `links` are W3C
    traceparents; what is malformed counts as absent.
    """
    if _recorder is None:
        return _NOTHING
    return _recorder.span(name, kind, parent, links, attributes)


def child(
    name: str, kind: Kind = Kind.INTERNAL, attributes: Attributes = _NO_ATTRIBUTES
) -> AbstractContextManager[Span]:
    """Return a span of the current trace as `span` does; nothing outside of one.

    For work that most often nobody asked for, such as the keeping of leases: it is not to begin traces.
    """
    if _recorder is None or not _recorder.traceparent():
        return _NOTHING
    return _recorder.span(name, kind, "", (), attributes)


def traced(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make each call of a function a `child` span."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            with child(name):
                return function(*args, **kwargs)

        return call

    return decorate


def traceparent() -> str:
    """Return the W3C traceparent of the current span; empty if nobody records, or there is none."""
    return "" if _recorder is None else _recorder.traceparent()


def parse(text: str) -> TraceContext | None:
    """Read a W3C traceparent; None if it is malformed, which the specification has us ignore."""
    match = _TRACEPARENT.fullmatch(text) if len(text) <= _MAX_TRACEPARENT else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # A later version may say more at the end; version ff is none.
    if version == "ff" or (version == "00" and more):
        return None
    context = TraceContext(int(trace_id, 16), int(span_id, 16), int(flags, 16))
    return context if context.trace_id and context.span_id else None


def sampled(traces: Iterable[str]) -> tuple[str, ...]:
    """Return those contexts, each once, that somebody records: MAX_TRACES at most, and nothing that is malformed."""
    found: dict[str, None] = {}
    for text in traces:
        context = parse(text)
        if context is not None and context.sampled:
            found[text] = None
        if len(found) == MAX_TRACES:
            break
    return tuple(found)
