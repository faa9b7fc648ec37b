"""Metrics to a collector, by OTLP: the same that /metrics shows, translated and sent every so often.

Imported only where the OTEL_* variables ask for it. The names stay those of Prometheus, so that a dashboard finds them
by either way.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import Metric as Family
from prometheus_client.samples import Sample

from fedmarket.threads import in_thread
from zone_agent.telemetry.instruments import REGISTRY, TABLE
from zone_agent.telemetry.scrape import Live
from zone_agent.telemetry.tracing import Outage
from zone_agent.telemetry.wanted import Protocol

INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
DEFAULT_INTERVAL_MS = 60_000
"""As the specification has it."""

_UNITS = {row.name: row.unit for row in TABLE}
_SCOPE = InstrumentationScope("fedmarket")


def metric_exporter(protocol: Protocol) -> MetricExporter:
    """Return an exporter as the OTEL_EXPORTER_OTLP_* variables say."""
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415 - or the other
            OTLPMetricExporter,
        )

        return OTLPMetricExporter()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # noqa: PLC0415 - or the other
        OTLPMetricExporter as HttpExporter,
    )

    return HttpExporter()


class Pusher:
    """Sends what an agent shows. `run` must be running."""

    def __init__(self, exporter: MetricExporter, told: Resource, live: Live) -> None:
        self._exporter = exporter
        self._told = told
        self._live = live
        self._began = time.time_ns()
        self._note = Outage("metrics")
        self._seconds = max(100, int(os.environ.get(INTERVAL) or DEFAULT_INTERVAL_MS)) / 1000

    async def run(self) -> None:
        """Send again and again, for ever, in a thread: a collector that is slow delays nothing but the next time."""
        while True:
            await asyncio.sleep(self._seconds)
            await self._send(self._live())

    async def _send(self, live: Sequence[Family]) -> None:
        def send() -> MetricExportResult:
            return self._exporter.export(self._data([*live, *REGISTRY.collect()]))

        self._note.saw(await in_thread(send) is MetricExportResult.SUCCESS)

    def _data(self, families: Iterable[Family]) -> MetricsData:
        now = time.time_ns()
        metrics = [self._metric(family, now) for family in families]
        scope = ScopeMetrics(_SCOPE, metrics, "")
        return MetricsData([ResourceMetrics(self._told, [scope], "")])

    def _metric(self, family: Family, now: int) -> Metric:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        data = _READ[family.type](family.samples, self._began, now)
        return Metric(name, family.documentation, _UNITS.get(name, ""), data)


def _gauge(samples: Iterable[Sample], began: int, now: int) -> Gauge:
    return Gauge([NumberDataPoint(sample.labels, began, now, sample.value) for sample in samples])


def _sum(samples: Iterable[Sample], began: int, now: int) -> Sum:
    points = [
        NumberDataPoint(sample.labels, began, now, sample.value)
        for sample in samples
        if not sample.name.endswith("_created")
    ]
    return Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)


def _histogram(samples: Iterable[Sample], began: int, now: int) -> Histogram:
    """Put together the samples that have the same labels. A bucket of Prometheus holds those below it, too."""
    by_labels: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for sample in samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        point = by_labels.setdefault(labels, {"buckets": []})
        kind = sample.name.rpartition("_")[2]
        if kind == "bucket":
            point["buckets"].append((float(sample.labels["le"]), int(sample.value)))
        else:
            point[kind] = sample.value
    points = []
    for labels, point in by_labels.items():
        buckets: list[tuple[float, int]] = sorted(point["buckets"])
        counts = [upper - lower for lower, upper in pairwise([0, *(count for _, count in buckets)])]
        bounds = [bound for bound, _ in buckets[:-1]]
        points.append(
            HistogramDataPoint(
                attributes=dict(labels),
                start_time_unix_nano=began,
                time_unix_nano=now,
                count=int(point["count"]),
                sum=point["sum"],
                bucket_counts=counts,
                explicit_bounds=bounds,
                min=None,  # type: ignore[arg-type]  # not known, which the encoder takes
                max=None,  # type: ignore[arg-type]  # as above
            )
        )
    return Histogram(points, AggregationTemporality.CUMULATIVE)


_READ: dict[str, Callable[[Iterable[Sample], int, int], Gauge | Sum | Histogram]] = {
    "gauge": _gauge,
    "counter": _sum,
    "histogram": _histogram,
}
