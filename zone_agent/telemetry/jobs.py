"""What is told of jobs: how many have ended, and the span of each."""

from contextlib import AbstractContextManager

from fedmarket import telemetry
from fedmarket.jsonview import enum_word
from fedmarket.pb.fedmarket.v1.job_pb2 import (
    JOB_KIND_CREATE,
    JOB_KIND_DOWNLOAD,
    JOB_KIND_EXPORT,
    JOB_KIND_IMPORT,
    JOB_STATE_DONE,
    JobKind,
    JobRecord,
    JobState,
)
from fedmarket.telemetry import Span
from zone_agent.telemetry.instruments import BYTES, JOB_SECONDS, JOBS_ENDED

_BRINGING = frozenset({JOB_KIND_CREATE, JOB_KIND_DOWNLOAD, JOB_KIND_EXPORT, JOB_KIND_IMPORT})
"""Jobs whose total is the bytes that they brought into a store."""


def words(record: JobRecord) -> tuple[str, str]:
    """Return a job's kind and state, as labels and clients have them."""
    return enum_word(JobKind.DESCRIPTOR, record.kind), enum_word(JobState.DESCRIPTOR, record.state)


def ended(record: JobRecord, now_ms: int) -> None:
    """Note that a job has ended."""
    kind, state = words(record)
    JOBS_ENDED.labels(kind, state).inc()
    if record.state == JOB_STATE_DONE and record.kind in _BRINGING:
        BYTES.labels("in", kind).inc(record.total_bytes)
    JOB_SECONDS.labels(kind).observe(max(0, now_ms - record.started_ms) / 1000)


def span_of(record: JobRecord, job_id: str) -> AbstractContextManager[Span]:
    """Return the span of a job: of the trace of the request that began it, whose context its task has.

    One that is taken up after a restart begins a trace of its own.
    """
    kind, _ = words(record)
    return telemetry.span(f"job {kind}", attributes={"fedmarket.job": job_id, "fedmarket.object": record.object.id})
