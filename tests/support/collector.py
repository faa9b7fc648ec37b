"""A collector of OpenTelemetry's: a real gRPC server that takes OTLP and keeps what came."""

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class Recorded:
    """A span as it came."""

    name: str
    service: str
    zone: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    """Trace ids."""
    failed: bool
    attributes: dict[str, Any] = field(compare=False)


class Collector:
    """What came so far."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._spans: list[Recorded] = []
        self._metrics: dict[str, Any] = {}
        self.raw = b""
        """Every message, as it was sent."""
        self.port = 0

    @property
    def variables(self) -> dict[str, str]:
        """What a process needs to export here, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        }

    def spans(self) -> list[Recorded]:
        """Return the spans that came so far."""
        with self._lock:
            return list(self._spans)

    def named(self, name: str) -> list[Recorded]:
        """Return those of a name."""
        return [span for span in self.spans() if span.name == name]

    def metrics(self) -> dict[str, Any]:
        """Return each metric as it came last."""
        with self._lock:
            return dict(self._metrics)

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - grpc's name
        """Take what is exported."""
        with self._lock:
            self.raw += request.SerializeToString()
            if isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest):
                for resource in request.resource_metrics:
                    self._metrics |= {m.name: m for scope in resource.scope_metrics for m in scope.metrics}
                return metrics_service_pb2.ExportMetricsServiceResponse()
            for resource in request.resource_spans:
                said = _attributes(resource.resource.attributes)
                self._spans += [_read(span, said) for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def _read(span: Any, said: dict[str, Any]) -> Recorded:
    return Recorded(
        name=span.name,
        service=said["service.name"],
        zone=said.get("fedmarket.zone.name", ""),
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=tuple(link.trace_id.hex() for link in span.links),
        failed=span.status.code == 2,
        attributes=_attributes(span.attributes),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector at a free port of loopback."""
    keeps = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    for add in (
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server,
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server,
    ):
        add(keeps, server)  # type: ignore[no-untyped-call]  # generated without types
    keeps.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield keeps
    finally:
        server.stop(None).wait()
