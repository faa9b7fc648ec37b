"""Spans by OpenTelemetry: whose child they are, what they link to, and what they tell of failures."""

import asyncio
import threading

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from fedmarket import telemetry
from fedmarket.errors import NotFound
from fedmarket.telemetry import Kind, parse
from fedmarket.threads import in_thread

ELSEWHERE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_span_with_a_parent_elsewhere_is_of_its_trace(spans: InMemorySpanExporter) -> None:
    with telemetry.span("answer", Kind.SERVER, {"a": 1}, parent=ELSEWHERE):
        pass
    (span,) = spans.get_finished_spans()
    known = parse(ELSEWHERE)
    assert known is not None
    assert span.context is not None
    assert span.parent is not None
    assert (span.context.trace_id, span.parent.span_id) == (known.trace_id, known.span_id)
    assert (span.kind, dict(span.attributes or {})) == (SpanKind.SERVER, {"a": 1})


@pytest.mark.parametrize("parent", ["garbage", "", ELSEWHERE[:-1]])
def test_a_malformed_parent_is_none(spans: InMemorySpanExporter, parent: str) -> None:
    with telemetry.span("answer", parent=parent, links=[ELSEWHERE, "garbage"]):
        pass
    (span,) = spans.get_finished_spans()
    assert span.parent is None
    assert [link.context.span_id for link in span.links] == [0x00F067AA0BA902B7]


def test_a_parent_that_is_not_recorded_has_children_that_are_not(spans: InMemorySpanExporter) -> None:
    with telemetry.span("answer", parent=ELSEWHERE[:-1] + "0"):
        assert telemetry.traceparent().endswith("-00")
    assert spans.get_finished_spans() == ()


async def test_work_in_tasks_and_threads_is_of_the_trace_that_began_it(spans: InMemorySpanExporter) -> None:
    async def work() -> None:
        await in_thread(inner)

    def inner() -> None:
        assert threading.current_thread() is not threading.main_thread()
        with telemetry.span("inner"):
            pass

    with telemetry.span("outer"):
        task = asyncio.create_task(work())
    await task
    outer, inside = spans.get_finished_spans()
    assert inside.parent is not None
    assert inside.parent == outer.context


def test_what_nobody_asked_for_begins_no_trace(spans: InMemorySpanExporter) -> None:
    with telemetry.child("keeping a lease"):
        pass
    with telemetry.span("asked"), telemetry.child("etcd"):
        pass
    assert [span.name for span in spans.get_finished_spans()] == ["etcd", "asked"]


def test_a_failure_is_told_by_our_own_sentence(spans: InMemorySpanExporter) -> None:
    with pytest.raises(NotFound), telemetry.span("work"):
        raise NotFound("there is none")
    (span,) = spans.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "there is none")
    assert dict(span.attributes or {}) == {"error.type": "not-found"}


def test_of_any_other_failure_only_its_kind_is_told(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="hunter2"), telemetry.span("work"):
        raise ValueError("password hunter2")
    (span,) = spans.get_finished_spans()
    assert "hunter2" not in span.to_json()
    assert dict(span.attributes or {}) == {"error.type": "ValueError"}


async def test_what_is_cancelled_has_not_failed(spans: InMemorySpanExporter) -> None:
    with pytest.raises(asyncio.CancelledError), telemetry.span("work"):
        raise asyncio.CancelledError
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.UNSET
