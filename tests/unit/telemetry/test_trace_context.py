"""The trace context that goes between processes, and spans that nobody records."""

import pytest

from fedmarket import telemetry
from fedmarket.telemetry import MAX_TRACES, TraceContext, parse, sampled

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_traceparent_is_read() -> None:
    assert parse(GOOD) == TraceContext(int(TRACE, 16), int(SPAN, 16), 1)


def test_of_a_later_version_what_is_known_is_read() -> None:
    assert parse(f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like") == parse(GOOD)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        f" {GOOD}",
        f"01-{TRACE}-{SPAN}-01-{'x' * 300}",
        f"00-{TRACE}-{SPAN}-0١",
    ],
)
def test_a_malformed_traceparent_is_none(text: str) -> None:
    assert parse(text) is None


def test_of_many_contexts_those_are_kept_that_are_sound_and_recorded_each_once() -> None:
    unrecorded = f"00-{TRACE}-{SPAN}-00"
    assert sampled([GOOD, "garbage", "", unrecorded, GOOD]) == (GOOD,)


def test_no_more_contexts_are_kept_than_a_commit_carries() -> None:
    many = [f"00-{TRACE}-{number:016x}-01" for number in range(1, 100)]
    assert sampled(many) == tuple(many[:MAX_TRACES])


def test_where_nobody_records_a_span_is_one_shared_object_and_there_is_no_context() -> None:
    with telemetry.span("one", parent=GOOD) as one, telemetry.child("two") as two:
        assert one is two
        assert telemetry.traceparent() == ""
    assert not telemetry.recording()
