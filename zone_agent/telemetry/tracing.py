"""Spans by OpenTelemetry: imported only where somebody asked for them (`wanted`)."""

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from fedmarket import telemetry
from fedmarket.errors import FedmarketError, cause_of
from fedmarket.telemetry import Attributes, Kind, Value
from zone_agent.telemetry.wanted import Protocol

log = logging.getLogger(__name__)

_KINDS = {Kind.INTERNAL: SpanKind.INTERNAL, Kind.CLIENT: SpanKind.CLIENT, Kind.SERVER: SpanKind.SERVER}


def resource(service: str, version: str, attributes: Mapping[str, Value]) -> Resource:
    """Say who exports. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over what is given."""
    ours = Resource({SERVICE_NAME: service, SERVICE_VERSION: version, **attributes})
    told = Resource.create()
    if str(told.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        told = Resource({key: value for key, value in told.attributes.items() if key != SERVICE_NAME})
    return ours.merge(told)


def span_exporter(protocol: Protocol, timeout: float | None = None) -> SpanExporter:
    """Return an exporter as the OTEL_EXPORTER_OTLP_* variables say; `timeout`, in seconds, wins over theirs."""
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - or the other

        return OTLPSpanExporter(timeout=timeout)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - or the other
        OTLPSpanExporter as HttpExporter,
    )

    return HttpExporter(timeout=timeout)


@contextmanager
def traced(exporter: SpanExporter, told: Resource, flush_seconds: float) -> Iterator[None]:
    """Record the spans of this process while the context lasts; at its end, take so long to send the last of them.

    They wait in a bounded queue (OTEL_BSP_*) for a thread of their own: what does not fit is dropped, nobody waits.
    """
    provider = TracerProvider(resource=told, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Quiet(exporter, "spans")))
    telemetry.install(OpenTelemetryRecorder(provider.get_tracer("fedmarket")))
    try:
        yield
    finally:
        telemetry.install(None)
        # In a thread that may be left behind: neither a collector that hangs nor its timeouts keep a process alive.
        ending = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        ending.start()
        ending.join(flush_seconds)


class OpenTelemetryRecorder:
    """The recorder of a process whose spans are exported."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def span(
        self, name: str, kind: Kind, parent: str, links: Sequence[str], attributes: Attributes
    ) -> AbstractContextManager["_Span"]:
        """Begin a span; see `fedmarket.telemetry.span`."""
        return _Span(
            self._tracer.start_span(
                name,
                context=_remote(parent),
                kind=_KINDS[kind],
                attributes=attributes,
                links=[Link(context) for link in links if (context := _span_context(link)) is not None],
                record_exception=False,
            )
        )

    def traceparent(self) -> str:
        """Return the context of the current span."""
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return ""
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


class _Span:
    """A span while it lasts. Exceptions are told by our own table: any other text could hold a secret."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._token: Any = None

    def __enter__(self) -> "_Span":
        self._token = contexts.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        contexts.detach(self._token)
        if isinstance(error, FedmarketError):
            self._span.set_attribute("error.type", cause_of(error).code)
            self.fail(error.message)
        elif isinstance(error, asyncio.CancelledError | KeyboardInterrupt | GeneratorExit):
            self._span.set_attribute("cancelled", True)
        elif isinstance(error, Exception):
            self._span.set_attribute("error.type", type(error).__name__)
            self.fail(f"{type(error).__name__}, which is in the log")
        self._span.end()

    def set(self, name: str, value: Value) -> None:
        """Note an attribute."""
        self._span.set_attribute(name, value)

    def fail(self, why: str) -> None:
        """Note that the work failed."""
        self._span.set_status(Status(StatusCode.ERROR, why))


class Quiet(SpanExporter):
    """An exporter that tells once that its collector is away, and once that it is back."""

    def __init__(self, exporter: SpanExporter, what: str) -> None:
        self._exporter = exporter
        self._note = Outage(what)

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        """Export a batch."""
        result = self._exporter.export(spans)
        self._note.saw(result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        """End the exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what waits."""
        return self._exporter.force_flush(timeout_millis)


class Outage:
    """Whether a collector is away, said when that changes. The SDK's own loggers would say it at every try."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._away = False
        sdk = logging.getLogger("opentelemetry")
        sdk.propagate = False
        sdk.addHandler(logging.NullHandler())

    def saw(self, sent: bool) -> None:
        """Note how an export went."""
        if not sent and not self._away:
            log.warning(
                "the collector takes no %s: they are dropped until it does; see OTEL_EXPORTER_OTLP_ENDPOINT", self._what
            )
        if sent and self._away:
            log.info("the collector takes %s again", self._what)
        self._away = not sent


def _span_context(traceparent: str) -> SpanContext | None:
    read = telemetry.parse(traceparent)
    if read is None:
        return None
    return SpanContext(read.trace_id, read.span_id, is_remote=True, trace_flags=TraceFlags(read.flags & 0x01))


def _remote(traceparent: str) -> contexts.Context | None:
    """Return the context of a span elsewhere; None, which is the current one, where none is given."""
    remote = _span_context(traceparent) if traceparent else None
    return None if remote is None else trace.set_span_in_context(NonRecordingSpan(remote), contexts.Context())
