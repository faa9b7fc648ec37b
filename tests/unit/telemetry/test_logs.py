"""Logs as JSON: one object per line, whatever is said."""

import json
import logging
import sys
from datetime import datetime
from typing import Any

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fedmarket import telemetry
from zone_agent.telemetry.logs import JsonLines


def line(message: str, *values: object, failure: bool = False) -> dict[str, Any]:
    record = logging.LogRecord(
        "zone_agent.jobs", logging.WARNING, __file__, 1, message, values, sys.exc_info() if failure else None
    )
    text = JsonLines().format(record)
    assert "\n" not in text
    read: dict[str, Any] = json.loads(text)
    return read


def test_a_line_is_an_object_with_time_level_logger_and_message() -> None:
    read = line("job %s\nended with %r", "ä", '"quotes"')
    assert read["message"] == "job ä\nended with '\"quotes\"'"
    assert (read["level"], read["logger"]) == ("warning", "zone_agent.jobs")
    assert read["time"].endswith("Z")
    assert datetime.fromisoformat(read["time"]).tzinfo is not None
    assert read.keys() == {"time", "level", "logger", "message"}


def test_a_line_of_a_traced_call_names_its_span(spans: InMemorySpanExporter) -> None:
    with telemetry.span("call"):
        read = line("said")
    (span,) = spans.get_finished_spans()
    assert span.context is not None
    assert read["trace_id"] == f"{span.context.trace_id:032x}"
    assert read["span_id"] == f"{span.context.span_id:016x}"


def test_an_exception_is_a_field() -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        read = line("it failed", failure=True)
    assert read["message"] == "it failed"
    assert read["exception"].endswith("ValueError: wrong")
