"""The gauges that are read off an agent at the moment at which somebody asks: they cost nothing until then."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from prometheus_client import Metric

from federation.catalog import Catalog
from federation.head import FEDERATION, PRIVATE, CatalogId, Pair
from federation.link.link import Link
from federation.link.sink import State
from federation.view import View
from federation.writer import Written
from fedmarket.pb.fedmarket.v1.job_pb2 import JobKind, JobRecord
from zone_agent.jobs import Jobs
from zone_agent.jobs.job import OPEN
from zone_agent.services.catalogs import Catalogs
from zone_agent.telemetry import instruments as at
from zone_agent.telemetry.instruments import Row
from zone_agent.telemetry.jobs import words
from zone_agent.upkeep.alarms import Alarms
from zone_agent.upkeep.health import EtcdHealth

ETCD_ALARMS = ("CORRUPT", "NOSPACE")

CATALOGS: dict[CatalogId, str] = {FEDERATION: "federation", PRIVATE: "private"}
"""How catalogs are called in labels."""

Value = tuple[Row, tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Who:
    """Whose agent this is."""

    name: str
    version: str


class Live:
    """Reads one agent. Called on its loop, so that what is read fits together."""

    def __init__(
        self,
        who: Who,
        view: View,
        links: Mapping[int, Link],
        health: EtcdHealth,
        alarms: Alarms,
        jobs: Jobs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._who = who
        self._view = view
        self._links = links
        self._health = health
        self._alarms = alarms
        self._jobs = jobs
        self._clock = clock

    def __call__(self) -> list[Metric]:
        """Return the families of all gauges."""
        families: list[Metric] = []
        for row, values in groupby(sorted(self._values(), key=lambda value: value[0].name), lambda value: value[0]):
            family = row.family()
            for _, labels, value in values:
                family.add_metric(labels, float(value))  # of truth too: 1 or 0
            families.append(family)
        return families

    def _values(self) -> Iterator[Value]:
        yield at.INFO, (str(self._view.zone), self._who.name, self._who.version), 1
        yield at.ALARMS, (), len(self._alarms.current())
        for catalog in self._view.federated():
            yield from _of_catalog(catalog, FEDERATION)
        yield from _of_catalog(self._view.private, PRIVATE)
        for peer, link in self._links.items():
            yield from self._of_link(peer, link)
        yield from self._of_etcd()
        running = Counter(words(job.record) for job in self._jobs.all_here())
        for kind in JobKind.values()[1:]:  # the first is none
            for state in OPEN:
                of = words(JobRecord(kind=kind, state=state))
                yield at.JOBS, of, running[of]

    def _of_link(self, peer: int, link: Link) -> Iterator[Value]:
        status = link.status
        for state in State:
            yield at.LINK_STATE, (str(peer), state.value), status.state is state
        yield at.LINK_DIALS, (str(peer),), link.dials
        age = status.age(self._clock())
        if age is not None:
            yield at.LINK_AGE, (str(peer),), age
        if status.there is not None:
            yield at.LINK_BEHIND, (str(peer),), _behind(status.there.pair, self._view.replicas[peer].pair)

    def _of_etcd(self) -> Iterator[Value]:
        members = self._health.members
        if not members:
            return  # not asked yet
        for member in members:
            labels = (member.endpoint,)
            yield at.ETCD_UP, labels, not member.error
            if member.error:
                continue
            yield at.ETCD_DB_BYTES, labels, member.size
            yield at.ETCD_IN_USE_BYTES, labels, member.in_use
            if member.quota:
                yield at.ETCD_QUOTA_BYTES, labels, member.quota
        for alarm in ETCD_ALARMS:
            yield at.ETCD_ALARM, (alarm,), alarm in self._health.etcd_alarms


def measure_commits(catalogs: Catalogs) -> None:
    """Count what the writers of an agent write."""
    for writer, kind in ((catalogs.federation, FEDERATION), (catalogs.private, PRIVATE)):
        writer.measure(partial(_count, CATALOGS[kind]))


def _count(catalog: str, written: Written) -> None:
    at.COMMITS.labels(catalog).inc()
    at.COMMIT_CHANGES.labels(catalog).observe(written.changes)
    at.COMMIT_SECONDS.labels(catalog).observe(written.seconds)


def _of_catalog(catalog: Catalog, kind: CatalogId) -> Iterator[Value]:
    labels = (str(catalog.home), CATALOGS[kind])
    yield at.CATALOG_FAULT, labels, bool(catalog.fault or catalog.barred)
    if catalog.state is None:
        return
    head = catalog.state.head.head
    yield at.HEAD_EPOCH, labels, head.epoch
    yield at.HEAD_SEQ, labels, head.seq
    yield at.HEAD_TIME, labels, head.time_ms / 1000
    yield at.CATALOG_RECORDS, labels, head.count


def _behind(there: Pair, here: Pair) -> int:
    """Return how many commits of the epoch `there` are not here; another epoch's count for nothing."""
    if there[0] != here[0]:
        return there[1] if there > here else 0
    return max(0, there[1] - here[1])
