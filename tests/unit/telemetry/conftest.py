"""Spans that are kept in memory, by OpenTelemetry's own exporter for tests."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fedmarket import telemetry
from zone_agent.telemetry.tracing import OpenTelemetryRecorder


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Record the spans of this process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.install(OpenTelemetryRecorder(provider.get_tracer("test")))
    try:
        yield exporter
    finally:
        telemetry.install(None)
