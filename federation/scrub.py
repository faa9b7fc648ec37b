"""Scrubbing: what is stored of a catalog is read anew and held against its signed head.

A catalog reads everything once, and then only what the watch tells; a scrub also finds what no watch told.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from federation.catalog import Catalog
from federation.commit import CatalogState
from federation.head import CatalogId, SealedHead, Verifier, unseal_bytes
from federation.keys import HEAD, LOST, BadKey, parse_record_key
from federation.store import KeyValue, Snapshot, Store
from federation.tree import BUCKETS, Leaf, Tree, bucket_digest, bucket_index, leaf_digest
from fedmarket.errors import Corrupt
from fedmarket.threads import in_thread

SLICE_RECORDS = 5000
"""Hashed in one go, some 25 ms, so that whoever ends a scrub does not wait long for its thread."""
ATTEMPTS = 3
"""Listings of a replica whose head moves on meanwhile, before what they show counts as damage."""
SHOWN_KEYS = 10
"""In a log line."""

log = logging.getLogger(__name__)


class Verdict(Enum):
    """What a scrub says of a catalog."""

    OK = "ok"
    EMPTY = "empty"
    """Nothing was ever stored."""
    SYNCING = "syncing"
    """A replica, into which a DIFF is being written."""
    REPAIRING = "repairing"
    """A replica that is damaged: its link fetches what differs."""
    ALARM = "alarm"
    """A person must decide."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A catalog to be scrubbed, and what its head must say."""

    catalog: Catalog
    kind: CatalogId
    key: Verifier
    direct: bool = False
    """Whether it is read where its own zone writes it, in an etcd that is shared."""


@dataclass(frozen=True, slots=True)
class Check:
    """What a scrub found of one catalog."""

    subject: Subject
    verdict: Verdict
    head: SealedHead | None
    """As it is stored; None where there is none, or it cannot be verified."""
    count: int
    """Records that are stored."""
    differs: tuple[str, ...] = ()
    """Keys of the records that are not those of the head, where that can be told."""
    reason: str = ""

    @property
    def settled(self) -> bool:
        """Whether this does not pass by itself: a replica that is not whole does, as soon as its peer answers."""
        return self.verdict not in {Verdict.SYNCING, Verdict.REPAIRING}


@dataclass(slots=True)
class ScrubSummary:
    """What scrubs have found since the agent was started."""

    scrubs: int = 0
    faults: int = 0
    """How often an own catalog was found at fault."""
    repairs: int = 0
    """How often a replica was found damaged."""
    silent: Counter[str] = field(default_factory=Counter)
    """Prefix of a catalog to how often a scrub found damage of which no watch had told."""
    last_time: float = 0.0
    """Unix seconds at the end of the last scrub; 0.0: there was none."""
    last: dict[str, Check] = field(default_factory=dict)
    """Prefix of a catalog to what was found last of it."""


class Scrubber:
    """Scrubs the catalogs of one zone, one at a time."""

    def __init__(
        self,
        store: Store,
        subjects: Callable[[], Sequence[Subject]],
        catch_up_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.subjects = subjects
        """Returns all catalogs of the zone: where a peer's is read from may change."""
        self.summary = ScrubSummary()
        self._store = store
        self._catch_up = catch_up_seconds
        self._clock = clock
        self._one = asyncio.Lock()

    @property
    def strays(self) -> int:
        """How often the watch told of records that somebody changed past the protocol; that is acted upon at once."""
        return sum(subject.catalog.strays for subject in self.subjects())

    async def scrub(self, subjects: Sequence[Subject]) -> AsyncGenerator[Check, None]:
        """Check catalogs one after the other; whatever is wrong is on its way to repair, or is an alarm, by then."""
        for subject in subjects:
            yield await self._check(subject)
        self.summary.scrubs += 1
        self.summary.last_time = self._clock()

    async def scrub_all(self) -> None:
        """Check every catalog."""
        async for _ in self.scrub(self.subjects()):
            pass

    async def settled(self, check: Check) -> Check:
        """Wait until a replica that was found not to be whole is, without a bound, and return what it is then."""
        catalog = check.subject.catalog
        while not check.settled:
            seen = catalog.stored
            if not catalog.syncing:
                check = await self._check(check.subject)
            if not check.settled and catalog.stored == seen:
                await catalog.pulse.wait()
        return check

    async def _check(self, subject: Subject) -> Check:
        async with self._one:
            known = subject.catalog.syncing or bool(subject.catalog.fault)
            check = await examine(self._store, subject, self._catch_up)
            self._note(check)
            if check.verdict in {Verdict.REPAIRING, Verdict.ALARM} and not known:
                self.summary.silent[subject.catalog.prefix] += 1
                subject.catalog.doubt()
            return check

    def found(self, catalog: Catalog) -> int:
        """Return how often a catalog was found damaged since the agent was started, by its watch or by a scrub."""
        return catalog.strays + self.summary.silent[catalog.prefix]

    def _note(self, check: Check) -> None:
        prefix = check.subject.catalog.prefix
        before = self.summary.last.get(prefix)
        self.summary.last[prefix] = check
        if before is not None and before.verdict is check.verdict:
            return
        shown = ", ".join(check.differs[:SHOWN_KEYS]) or "not known"
        if check.verdict is Verdict.ALARM:
            self.summary.faults += check.subject.catalog.own
            log.error("%s (records that differ: %s)", check.reason, shown)
        elif check.verdict is Verdict.REPAIRING:
            self.summary.repairs += 1
            log.warning("%s (records that differ: %s)", check.reason, shown)


async def examine(store: Store, subject: Subject, catch_up_seconds: float) -> Check:
    """List a catalog and hold its records against its head, which was stored at the same revision.

    Raises StoreUnavailable, or Timeout if the watch of a replica is too far behind to tell damage from a DIFF.
    """
    catalog = subject.catalog
    for _ in range(ATTEMPTS):
        syncing = catalog.syncing
        snapshot = await store.snapshot(catalog.prefix)
        published = catalog.state
        stored = await _hash(snapshot, catalog.prefix)
        check = _judge(subject, stored, published)
        if check.verdict is not Verdict.REPAIRING or stored.stray:
            return check
        await catalog.wait_applied(snapshot.revision, catch_up_seconds)
        if syncing or catalog.syncing:
            return Check(subject, Verdict.SYNCING, check.head, check.count, reason="what differs is being fetched")
        if catalog.stored[2] == stored.head_revision:
            return check
    return check


@dataclass(frozen=True, slots=True)
class _Stored:
    """A listing of a catalog."""

    head: bytes
    head_revision: int
    tree: Tree
    stray: bool
    """Whether a record is newer than the head, with which everybody writes who writes by the protocol."""


async def _hash(snapshot: Snapshot, prefix: str) -> _Stored:
    """Make a tree of what was listed, in a thread."""
    items = snapshot.items
    head = next((item for item in items if item.key == prefix + HEAD), None)
    revision = head.mod_revision if head else 0
    buckets: list[dict[str, Leaf]] = [{} for _ in range(BUCKETS)]
    newest = 0
    for start in range(0, len(items), SLICE_RECORDS):
        newest = max(newest, await in_thread(partial(_fill, buckets, prefix, items[start : start + SLICE_RECORDS])))
    digests = await in_thread(lambda: [bucket_digest(bucket) for bucket in buckets])
    return _Stored(head.value if head else b"", revision, Tree(buckets, digests), newest > revision)


def _fill(buckets: list[dict[str, Leaf]], prefix: str, items: Sequence[KeyValue]) -> int:
    """Put the records among `items` into their buckets, and return the mod_revision of the newest of them."""
    newest = 0
    for item in items:
        key = item.key.removeprefix(prefix)
        if key == HEAD or key.startswith(LOST + "/"):
            continue
        try:
            parse_record_key(key)
        except BadKey:
            continue  # as catalogs do, which have logged it
        buckets[bucket_index(key)][key] = Leaf(item.value, leaf_digest(key, item.value))
        newest = max(newest, item.mod_revision)
    return newest


def _judge(subject: Subject, stored: _Stored, published: CatalogState | None) -> Check:
    """Say what a listing shows; `published` is what was published here, perhaps under the head that is stored."""
    catalog, count = subject.catalog, stored.tree.count
    if not stored.head and not catalog.own:
        verdict = Verdict.SYNCING if count else Verdict.EMPTY
        return Check(subject, verdict, None, count, reason="no DIFF from the peer has come to its end yet")
    try:
        sealed = unseal_bytes(stored.head, subject.key)
    except Corrupt as error:
        return Check(subject, Verdict.ALARM, None, count, reason=_untrusted(subject, error.message))
    if (sealed.head.zone, sealed.head.catalog) != (catalog.home, subject.kind):
        return Check(subject, Verdict.ALARM, None, count, reason=_untrusted(subject, "the head is of another catalog"))
    if sealed.describes(stored.tree):
        return Check(subject, Verdict.OK, sealed, count)
    known = published is not None and published.head.hash == sealed.hash
    differs = tuple(sorted(stored.tree.changed_keys(published.tree))) if published and known else ()
    repairable = not (catalog.own or subject.direct)
    verdict = Verdict.REPAIRING if repairable else Verdict.ALARM
    reason = f"the records stored at {catalog.prefix} do not match their signed head: {_remedy(subject)}"
    return Check(subject, verdict, sealed, count, differs, reason)


def _remedy(subject: Subject) -> str:
    if subject.catalog.own:
        return "changes are refused until `fedmarket zone repair`"
    if subject.direct:
        return f"zone {subject.catalog.home} itself must see to it, by `fedmarket zone repair` there"
    return "what differs is fetched again"


def _untrusted(subject: Subject, why: str) -> str:
    if subject.catalog.own or subject.direct:
        remedy = _remedy(subject)
    else:
        remedy = f"`fedmarket federation forget {subject.catalog.home}` has it fetched anew"
    return f"what is stored at {subject.catalog.prefix} cannot be trusted ({why}): {remedy}"
