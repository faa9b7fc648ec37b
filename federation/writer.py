"""The writer of one catalog: turns changes that come at once into shared commits (group commit).

A change is a function of the catalog at exactly the head that the commit compares. When another agent of the zone was
faster, the view catches up and every change of the batch is evaluated again.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from federation.catalog import Catalog
from federation.commit import CatalogState, Commit, Origin, build_commit
from federation.draft import Draft, IdRange
from federation.head import Pair, unseal_bytes
from federation.store import Change, Revision, Store, StoreUnavailable
from fedmarket.errors import Cancelled, Corrupt, FedmarketError, OutcomeUnknown, Refused, Timeout, Unavailable

log = logging.getLogger(__name__)

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
    retry_seconds: float = 0.2
    """Pause between two attempts to find out."""


@dataclass(frozen=True, slots=True)
class Committed(Generic[T]):
    """What a change returned, and the commit that holds it."""

    value: T
    pair: Pair


@dataclass(slots=True)
class _Request:
    change: Callable[[Draft], object]
    done: asyncio.Future[Committed[object]]
    beat: bool = False


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

    async def _submit(self, change: Callable[[Draft], T], *, beat: bool) -> Committed[T]:
        if self._stopped:
            raise _never()
        done: asyncio.Future[Committed[T]] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(_Request(change, done, beat))  # type: ignore[arg-type] # T is erased in the queue
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
        while batch:
            state = self._catalog.state
            if self._catalog.fault or state is None:
                reason = self._catalog.fault or "this zone's catalog is not open yet: try again in a moment"
                return _fail_all(batch, Refused(reason) if self._catalog.fault else Unavailable(reason))
            draft = Draft(state.tree, self._catalog.index, state.head.head.next_ids, self._ids)
            results = self._evaluate(batch, draft)
            if not draft.changes and not any(request.beat for request, _ in results):
                return _succeed(results, state.head.pair)
            try:
                commit = build_commit(self._origin, state, draft.changes, draft.next_ids, int(self._clock() * 1000))
                won = await self._apply(state, commit)
            except FedmarketError as error:
                return _fail_all([request for request, _ in results], error)
            if won:
                return _succeed(results, commit.head.pair)
            batch = [request for request, _ in results if not request.done.done()]
        return None

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

    async def _apply(self, seen: CatalogState, commit: Commit) -> bool:
        """Write a commit and publish it here. False: another agent was faster, and the catalog caught up with it."""
        try:
            result = await self._store.txn(commit.txn)
        except StoreUnavailable as error:
            return await self._resolve(seen, commit, error)
        if result.succeeded:
            self._publish(result.revision, commit)
            return True
        if result.current is None or result.current.mod_revision == seen.revision:
            raise Corrupt(
                "a record in etcd is newer than the head that should cover it: changes are refused until "
                "`fedmarket zone repair`"
            )
        await self._catch_up(result.current.value)
        return False

    async def _resolve(self, seen: CatalogState, commit: Commit, reason: StoreUnavailable) -> bool:
        """Find out what became of a commit whose answer was lost, by moving the head if it has not moved."""
        unknown = OutcomeUnknown(
            f"{reason.message}; whether the change was applied is not known: look before repeating it"
        )
        at_head = self._origin.prefix + "head"
        probe = build_commit(self._origin, seen, {}, seen.head.head.next_ids, int(self._clock() * 1000))
        try:
            async with asyncio.timeout(self._settings.resolve_seconds):
                while True:
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
                        await asyncio.sleep(self._settings.retry_seconds)
        except TimeoutError:
            raise unknown from reason
        if current is None:
            raise unknown from reason
        found = unseal_bytes(current.value, self._origin.key.public)
        if found.hash == commit.head.hash:
            self._publish(current.mod_revision, commit)
            return True
        try:
            await self._catch_up(current.value)
        except Timeout:
            raise unknown from reason
        taken = self._catalog.hash_at(commit.head.pair)
        if taken is None:
            raise unknown from reason
        return taken == commit.head.hash

    def _publish(self, revision: int, commit: Commit) -> None:
        changes = [Change(self._origin.prefix + key, value) for key, value in commit.changes.items()]
        head = Change(self._origin.prefix + "head", commit.head.encode())
        self._catalog.apply(Revision(revision, [*changes, head]), direct=True)

    async def _catch_up(self, raw_head: bytes) -> None:
        head = unseal_bytes(raw_head, self._origin.key.public)
        await self._catalog.wait_for(head.pair, self._settings.catch_up_seconds)


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
