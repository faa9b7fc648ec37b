"""Every metric of an agent: one table, from which instruments, the texts of /metrics and docs/metrics.md are made.

Counters and histograms are prometheus-client's: they cost about a microsecond, where those of OpenTelemetry's SDK cost
six. Most gauges are no objects: `live` reads them off the agent when somebody asks. docs/adr/0012-telemetry.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CHANGES = (1, 2, 5, 10, 20, 50, 100)
MINUTES = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)


INTRODUCTION = """\
# Metrics

<!-- Generated from zone_agent/telemetry/instruments.py by `python -m zone_agent.cli.docs`: change them there. -->

What `GET /metrics` of an agent's HTTP port shows, and what OTLP sends: see [telemetry.md](telemetry.md). A histogram
has `_bucket`, `_sum` and `_count`, as usual. Zones and peers are told by their numbers.
"""


class Kind(Enum):
    """How a metric moves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Row:
    """One metric."""

    name: str
    """As Prometheus shows it, but for what it adds to a histogram's."""
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    meaning: str

    def family(self) -> GaugeMetricFamily | CounterMetricFamily:
        """Return an empty family, for values that are read when somebody asks."""
        if self.kind is Kind.COUNTER:
            return CounterMetricFamily(self.name.removesuffix("_total"), self.meaning, labels=self.labels)
        return GaugeMetricFamily(self.name, self.meaning, labels=self.labels)


TABLE: list[Row] = []
REGISTRY = CollectorRegistry()
"""The counters and histograms of this process."""


def _row(name: str, kind: Kind, unit: str, labels: tuple[str, ...], meaning: str) -> Row:
    row = Row(f"fedmarket_{name}", kind, unit, labels, meaning)
    TABLE.append(row)
    return row


def _counter(name: str, unit: str, labels: tuple[str, ...], meaning: str) -> Counter:
    row = _row(f"{name}_total", Kind.COUNTER, unit, labels, meaning)
    return Counter(row.name, row.meaning, row.labels, registry=REGISTRY)


def _histogram(
    name: str, unit: str, labels: tuple[str, ...], meaning: str, buckets: Sequence[float] = SECONDS
) -> Histogram:
    row = _row(name, Kind.HISTOGRAM, unit, labels, meaning)
    return Histogram(row.name, row.meaning, row.labels, buckets=buckets, registry=REGISTRY)


def _gauge(name: str, unit: str, labels: tuple[str, ...], meaning: str) -> Row:
    """Return a gauge that is read when somebody asks."""
    return _row(name, Kind.GAUGE, unit, labels, meaning)


def _read(name: str, unit: str, labels: tuple[str, ...], meaning: str) -> Row:
    """Return a counter that something else keeps, and that is read when somebody asks."""
    return _row(f"{name}_total", Kind.COUNTER, unit, labels, meaning)


INFO = _gauge("info", "", ("zone", "name", "version"), "Always 1: which zone's agent this is, and its version.")

HEAD_EPOCH = _gauge(
    "head_epoch", "", ("zone", "catalog"), "Epoch of the head that is shown here, of each zone's catalog."
)
HEAD_SEQ = _gauge("head_seq", "commits", ("zone", "catalog"), "Sequence number of that head within its epoch.")
HEAD_TIME = _gauge("head_time_seconds", "Unix seconds", ("zone", "catalog"), "When that head was signed, by its home.")
CATALOG_RECORDS = _gauge("catalog_records", "records", ("zone", "catalog"), "Records under that head.")
CATALOG_FAULT = _gauge(
    "catalog_fault", "", ("zone", "catalog"), "1: what is stored is not believed, or must not be written; else 0."
)

LINK_STATE = _gauge("link_state", "", ("peer", "state"), "1 for the state that the link with a peer is in, else 0.")
LINK_AGE = _gauge(
    "link_age_seconds",
    "seconds",
    ("peer",),
    "For how long the copy of a peer's catalog has not been known to be current; absent before it first was.",
)
LINK_BEHIND = _gauge(
    "link_behind_commits", "commits", ("peer",), "Commits of the peer's epoch that it has shown and that are not here."
)
LINK_DIALS = _read("link_streams", "streams", ("peer",), "Streams that were begun to a peer.")

COMMITS = _counter("commits", "commits", ("catalog",), "Commits that this agent wrote.")
COMMIT_CHANGES = _histogram(
    "commit_changes", "changes", ("catalog",), "Changes that shared a commit (group commit).", CHANGES
)
COMMIT_SECONDS = _histogram("commit_seconds", "seconds", ("catalog",), "Time from building a commit to etcd's answer.")

REQUESTS = _counter(
    "requests",
    "calls",
    ("api", "method", "code"),
    "gRPC calls answered, by outcome; api: native (clients) or peer (other zones).",
)
REQUEST_SECONDS = _histogram(
    "request_seconds", "seconds", ("api", "method"), "Time to answer them; of a stream, until its end."
)

BYTES = _counter(
    "transferred_bytes",
    "bytes",
    ("direction", "kind"),
    "Bytes of images and apps. in: into a store, by the kind of job that is done; out: blob (by a signed URL) or "
    "download (to a client).",
)

JOBS = _gauge("jobs", "jobs", ("kind", "state"), "Jobs of this agent that have not ended: queued or running.")
JOBS_ENDED = _counter("jobs_ended", "jobs", ("kind", "state"), "Jobs that have ended, by how they did.")
JOB_SECONDS = _histogram("job_seconds", "seconds", ("kind",), "Time from a job's start to its end.", MINUTES)

ETCD_UP = _gauge("etcd_up", "", ("endpoint",), "1: the member answered when it was last asked, 30 s ago at most.")
ETCD_DB_BYTES = _gauge("etcd_db_size_bytes", "bytes", ("endpoint",), "Size of its database, which its quota limits.")
ETCD_IN_USE_BYTES = _gauge(
    "etcd_db_in_use_bytes", "bytes", ("endpoint",), "What of it is in use; a defragmentation gives the rest back."
)
ETCD_QUOTA_BYTES = _gauge("etcd_quota_bytes", "bytes", ("endpoint",), "Its quota; absent where etcd does not tell it.")
ETCD_ALARM = _gauge("etcd_alarm", "", ("alarm",), "1: etcd has raised the alarm (NOSPACE, CORRUPT), else 0.")
ALARMS = _gauge("alarms", "alarms", (), "Alarms that `fedmarket federation status` shows.")

# Of every program under Prometheus, by names that its dashboards know: memory, CPU, open files, start.
ProcessCollector(registry=REGISTRY)


def metrics_page() -> str:
    """Return the page docs/metrics.md."""
    rows = [
        f"| `{row.name}` | {row.kind.value} | {row.unit or '-'} | {', '.join(row.labels) or '-'} | {row.meaning} |"
        for row in TABLE
    ]
    return "\n".join([INTRODUCTION, "| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|", *rows, ""])
