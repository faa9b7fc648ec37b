"""The writer of one catalog: turns changes that come at once into shared commits (group commit).

A change is a function of the catalog at exactly the head that the commit compares. When another agent of the zone was
faster, the view catches up and every change of the batch is evaluated again.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Generic, TypeVar

from federation.catalog import Catalog, Publication
from federation.commit import CatalogState, Commit, Origin, build_commit
from federation.draft import Draft, IdRange
from federation.epoch import Known, build_epoch
from federation.head import Pair, unseal_bytes
from federation.keys import HEAD
from federation.store import Change, KeyValue, Revision, Store, StoreUnavailable
from fedmarket import telemetry
from fedmarket.errors import Cancelled, Corrupt, FedmarketError, OutcomeUnknown, Refused, Timeout, Unavailable
from fedmarket.failpoints import Failpoint, hit
from fedmarket.retry import Backoff

log = logging.getLogger(__name__)

_RESOLVE = Backoff(first_seconds=0.1, longest_seconds=1.0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """Bounds of a writer."""

    queue: int = 1000
    """Changes that may wait; more are told to come back."""
    catch_up_seconds: float = 5.0
    """How long to wait for the watch after another agent was faster."""
    resolve_seconds: float = 15.0
    """How long to find out what became of a commit whose answer was lost."""
    backoff: Backoff = _RESOLVE
    """Pace of the attempts to find out."""
    fairness_seconds: float = 1.0
    """For so long after another agent's commit was seen, each of ours waits for the echo of the one before."""


@dataclass(frozen=True, slots=True)
class Committed(Generic[T]):
    """What a change returned, and the commit that holds it."""

    value: T
    pair: Pair


@dataclass(frozen=True, slots=True)
class Written:
    """A commit that was written, for whoever measures."""

    changes: int
    """How many of those who asked share it."""
    seconds: float
    """From its building to the store's answer."""


@dataclass(slots=True)
class _Request:
    change: Callable[[Draft], object]
    done: asyncio.Future[Committed[object]]
    beat: bool = False
    epoch: Sequence[Known] | None = None
    """Asks for a new epoch after all of these."""
    trace: str = ""
    """W3C traceparent of whoever asks; empty: nobody records it."""


class _Noted(Exception):
    """Notes that a commit was to write first are there."""

    def __init__(self, keys: frozenset[str]) -> None:
        super().__init__()
        self.keys = keys


class Writer:
    """Writes one catalog. `run` must be running for `commit` to make progress."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        origin: Origin,
        settings: WriterSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._origin = origin
        self._settings = settings
        self._clock = clock
        self._ids = IdRange(origin.zone, origin.catalog)
        self._queue: asyncio.Queue[_Request] = asyncio.Queue(settings.queue)
        self._carried: deque[_Request] = deque()
        self._stopped = False
        self._rival_seen = -settings.fairness_seconds
        """When another agent's commit was last seen, on the loop's clock."""
        self._last_revision = 0
        self._measures: list[Callable[[Written], None]] = []
        catalog.listen(self._look_for_rivals)

    def measure(self, measure: Callable[[Written], None]) -> None:
        """Call `measure` with each commit that was written."""
        self._measures.append(measure)

    async def commit(self, change: Callable[[Draft], T]) -> Committed[T]:
        """Apply a change; what it raises is raised here, and then nothing was changed.

        Raises OutcomeUnknown when the store's answer was lost and its outcome could not be found out, Unavailable when
        the store does not answer or too many changes wait, Cancelled when the writer has stopped (then nothing was
        changed).
        """
        return await self._submit(change, beat=False)

    async def beat(self) -> None:
        """Commit an empty change: a sign of life for whoever reads the head."""
        await self._submit(lambda _: None, beat=True)

    async def begin_epoch(self, known: Sequence[Known]) -> None:
        """Begin an epoch after all that is `known`, over what is stored, because the store was put back.

        Does nothing if the catalog has come to a later epoch than each of these meanwhile; for none it always begins.
        """
        await self._submit(lambda _: None, epoch=known)

    async def _submit(
        self, change: Callable[[Draft], T], *, beat: bool = False, epoch: Sequence[Known] | None = None
    ) -> Committed[T]:
        if self._stopped:
            raise _never()
        done: asyncio.Future[Committed[T]] = asyncio.get_running_loop().create_future()
        trace = telemetry.traceparent()
        request = _Request(change, done, beat, epoch, trace)  # type: ignore[arg-type] # T is erased in the queue
        try:
            self._queue.put_nowait(request)
        except asyncio.QueueFull:
            raise Unavailable("too many changes are waiting to be written: try again in a moment") from None
        return await done

    async def run(self) -> None:
        """Write what is submitted, for ever; at the end, tell whoever still waits."""
        batch: list[_Request] = []
        self._stopped = False
        try:
            while True:
                batch = await self._next_batch()
                await self._write(batch)
        finally:
            self._stopped = True
            cut = OutcomeUnknown("the agent stopped in the middle of the change: look whether it was applied")
            _fail_all(batch, cut)
            _fail_all([*self._carried, *_drain(self._queue)], _never())

    async def _next_batch(self) -> list[_Request]:
        batch = list(self._carried) or [await self._queue.get()]
        self._carried.clear()
        return [request for request in [*batch, *_drain(self._queue)] if not request.done.done()]

    async def _write(self, batch: list[_Request]) -> None:
        """Commit a batch, evaluating it again after each lost race."""
        noted: frozenset[str] = frozenset()
        while batch:
            state = self._catalog.base
            refusal = self._catalog.fault or self._catalog.barred
            if refusal or state is None:
                reason = refusal or "this zone's catalog is not open yet: try again in a moment"
                return _fail_all(batch, Refused(reason) if refusal else Unavailable(reason))
            try:
                known = self._known_beyond(state, batch)
                if known is not None:
                    await self._begin(state, known, batch)
                    continue
                await self._take_turn()
            except FedmarketError as error:
                return _fail_all(batch, error)
            draft = Draft(state.tree, self._catalog.index, state.head.head.next_ids, self._ids, noted)
            results = self._evaluate(batch, draft)
            if not (draft.changes or draft.notes or any(request.beat for request, _ in results)):
                return _succeed(results, state.head.pair)
            try:
                commit = build_commit(self._origin, state, draft.changes, draft.next_ids, self._time_ms(), draft.notes)
                empty = partial(build_commit, self._origin, state, {}, state.head.head.next_ids, self._time_ms())
                won = await self._observed([request for request, _ in results], state, commit, empty)
            except _Noted as before:
                won, noted = False, noted | before.keys
            except FedmarketError as error:
                return _fail_all([request for request, _ in results], error)
            if won:
                return _succeed(results, commit.head.pair)
            batch = [request for request, _ in results if not request.done.done()]
        return None

    def _known_beyond(self, state: CatalogState, batch: list[_Request]) -> Sequence[Known] | None:
        """Return what the next commit must begin an epoch after; None if it may follow `state`."""
        known: list[Known] = [] if self._catalog.vanished is None else [self._catalog.vanished.head]
        known += [one for request in batch for one in request.epoch or () if one.pair[0] >= state.head.pair[0]]
        forced = any(request.epoch is not None and not request.epoch for request in batch)
        return known if known or forced else None

    async def _begin(self, state: CatalogState, known: Sequence[Known], batch: list[_Request]) -> None:
        """Write the first commit of a new epoch."""

        def build() -> Commit:
            return build_epoch(self._origin, state, known, self._time_ms())

        commit = build()
        if await self._apply(state, commit, build):
            log.warning("%s: epoch %d has begun", self._origin.prefix, commit.head.pair[0])
            for request in batch:
                request.epoch = None

    async def _take_turn(self) -> None:
        """Let another agent of the zone be first, if one is at work: wait until etcd has shown our last commit.

        It has seen that commit by then too; whoever went on at once, by what it applied itself, would always win.
        """
        rival_age = asyncio.get_running_loop().time() - self._rival_seen
        if rival_age < self._settings.fairness_seconds:
            with suppress(Timeout):
                await self._catalog.wait_echo(self._last_revision, self._settings.catch_up_seconds)

    def _look_for_rivals(self, publication: Publication) -> None:
        if publication.state.head.head.agent != self._origin.agent:
            self._rival_seen = asyncio.get_running_loop().time()

    def _time_ms(self) -> int:
        return int(self._clock() * 1000)

    def _evaluate(self, batch: list[_Request], draft: Draft) -> list[tuple[_Request, object]]:
        """Run the changes on the draft. One that fails is answered; those that no longer fit are carried over."""
        results: list[tuple[_Request, object]] = []
        for position, request in enumerate(batch):
            try:
                value = request.change(draft)
                kept = draft.keep()
            except FedmarketError as error:
                draft.drop()
                _fail(request, error)
                continue
            except Exception as error:
                log.exception("a change failed")
                draft.drop()
                if not request.done.done():
                    request.done.set_exception(error)
                continue
            if not kept:
                draft.drop()
                self._carried.extend(batch[position:])
                break
            results.append((request, value))
        return results

    async def _observed(
        self, requests: Sequence[_Request], seen: CatalogState, commit: Commit, probe: Callable[[], Commit]
    ) -> bool:
        """Do as `_apply` does, and tell whoever traces or measures."""
        began = time.perf_counter()
        traces = telemetry.sampled(request.trace for request in requests)
        self._catalog.announce(commit.head.hash, traces)
        with _span_of(commit, traces):
            won = await self._apply(seen, commit, probe)
        if won:
            for measure in self._measures:
                measure(Written(len(requests), time.perf_counter() - began))
        return won

    async def _apply(self, seen: CatalogState, commit: Commit, probe: Callable[[], Commit]) -> bool:
        """Write a commit and publish it here. False: another agent was faster, and the catalog caught up with it."""
        hit(Failpoint.COMMIT_BEFORE)
        try:
            result = await self._store.txn(commit.txn)
        except StoreUnavailable as error:
            return await self._resolve(seen, commit, probe(), error)
        if result.succeeded:
            hit(Failpoint.COMMIT_AFTER)
            self._publish(result.revision, commit)
            return True
        if result.current is not None and result.current.mod_revision == seen.revision:
            await self._look_for_notes(commit)
            raise Corrupt(
                "a record in etcd is newer than the head that should cover it: changes are refused until "
                "`fedmarket zone repair`"
            )
        await self._catch_up(seen, result.current)
        return False

    async def _look_for_notes(self, commit: Commit) -> None:
        """Raise _Noted if what kept a commit from being applied are notes, not the head nor a record."""
        first = commit.txn.guards.keys() - {self._origin.prefix + HEAD}
        noted = frozenset([key for key in first if await self._store.get(key) is not None])
        if noted:
            raise _Noted(noted)

    async def _resolve(self, seen: CatalogState, commit: Commit, probe: Commit, reason: StoreUnavailable) -> bool:
        """Find out what became of a commit whose answer was lost, by moving the head if it has not moved."""
        unknown = OutcomeUnknown(
            f"{reason.message}; whether the change was applied is not known: look before repeating it"
        )
        at_head = self._origin.prefix + HEAD
        try:
            async with asyncio.timeout(self._settings.resolve_seconds):
                for failures in count(1):
                    try:
                        current = await self._store.get(at_head)
                        if current is not None and current.mod_revision == seen.revision:
                            result = await self._store.txn(probe.txn)
                            if result.succeeded:
                                self._publish(result.revision, probe)
                                raise Unavailable(f"{reason.message}; nothing was changed: try again")
                            current = result.current
                        break
                    except StoreUnavailable:
                        await asyncio.sleep(self._settings.backoff.delay(failures))
        except TimeoutError:
            raise unknown from reason
        if current is None:
            raise unknown from reason
        if unseal_bytes(current.value, self._origin.key.public).hash == commit.head.hash:
            self._publish(current.mod_revision, commit)
            return True
        try:
            await self._catch_up(seen, current)
        except Timeout:
            raise unknown from reason
        taken = self._catalog.hash_at(commit.head.pair)
        if taken is None:
            raise unknown from reason
        return taken == commit.head.hash

    def _publish(self, revision: int, commit: Commit) -> None:
        changes = [Change(self._origin.prefix + key, value) for key, value in commit.changes.items()]
        head = Change(self._origin.prefix + HEAD, commit.head.encode())
        self._catalog.apply(Revision(revision, [*changes, head]), direct=True)
        self._last_revision = revision

    async def _catch_up(self, seen: CatalogState, current: KeyValue | None) -> None:
        """Wait until the catalog shows `current`, or whatever else the head is now. Raises Timeout."""
        if current is not None and current.mod_revision > seen.revision:
            head = unseal_bytes(current.value, self._origin.key.public)
            return await self._catalog.wait_for(head.pair, self._settings.catch_up_seconds)
        self._catalog.doubt()  # the store went back
        return await self._catalog.wait_moved(seen.revision, self._settings.catch_up_seconds)


def _span_of(commit: Commit, traces: Sequence[str]) -> AbstractContextManager[object]:
    """Return the span of a commit: of the first trace that asked for it, linked to the others; of none, none."""
    if not traces:
        return nullcontext()
    epoch, seq = commit.head.pair
    said = {"fedmarket.epoch": epoch, "fedmarket.seq": seq, "fedmarket.records": len(commit.changes)}
    return telemetry.span("commit", attributes=said, parent=traces[0], links=traces[1:])


def _never() -> Cancelled:
    return Cancelled("the agent is stopping: nothing was changed, ask again when it is back")


def _drain(queue: asyncio.Queue[_Request]) -> list[_Request]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


def _succeed(results: list[tuple[_Request, object]], pair: Pair) -> None:
    for request, value in results:
        if not request.done.done():
            request.done.set_result(Committed(value, pair))


def _fail(request: _Request, error: FedmarketError) -> None:
    if not request.done.done():
        request.done.set_exception(error)


def _fail_all(requests: list[_Request], error: FedmarketError) -> None:
    for request in requests:
        _fail(request, error)
