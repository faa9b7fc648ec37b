"""Deleting what is old below a prefix; and how old keys are that carry no time."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from federation.store import KeyValue, Store, Txn

PAGE = 100
"""Keys that one transaction deletes."""
MARK_SECONDS = 86400
"""Between two marks: how exactly the age of a key is known."""


async def expire(store: Store, prefix: str, is_old: Callable[[KeyValue], bool]) -> int:
    """Delete the keys below a prefix that are old, in pages; return how many that were.

    A page of which a key has changed since it was looked at stays whole, until the next time.
    """
    snapshot = await store.snapshot(prefix)
    old = [item for item in snapshot.items if is_old(item)]
    deleted = 0
    for start in range(0, len(old), PAGE):
        page = {item.key: item.mod_revision for item in old[start : start + PAGE]}
        result = await store.txn(Txn(guards=page, deletes=list(page)))
        deleted += len(page) if result.succeeded else 0
    return deleted


@dataclass(frozen=True, slots=True)
class Mark:
    """A revision that the store had reached at a time."""

    revision: int
    time: int
    """Unix seconds."""


class Marks:
    """When the store had reached which revision: what was last written before a mark is older than the mark is.

    One key of the zone, `[[revision, time], ...]` in JSON, ascending; it needs no change of what it tells the age of.
    """

    def __init__(self, store: Store, key: str, clock: Callable[[], float]) -> None:
        self._store = store
        self._key = key
        self._clock = clock

    async def reached(self, seconds: float) -> int:
        """Return the greatest revision that is surely older than that; 0: none is. Sets the next mark when it is due.

        Marks are for nothing, and begin anew, where the store went back behind them or the clock did.
        """
        snapshot = await self._store.snapshot(self._key)
        stored = next((item for item in snapshot.items if item.key == self._key), None)
        now = int(self._clock())
        marks = _sound(_decode(stored.value), stored.mod_revision, now) if stored else []
        passed = [mark for mark in marks if mark.time <= now - seconds]
        if not marks or now - marks[-1].time >= MARK_SECONDS:
            kept = [*passed[-1:], *marks[len(passed) :], Mark(snapshot.revision, now)]
            guard = {self._key: stored.mod_revision if stored else 0}
            await self._store.txn(Txn(guard, puts={self._key: _encode(kept)}))  # if another agent was faster: its mark
        return passed[-1].revision if passed else 0


def _sound(marks: Sequence[Mark], written_at: int, now: int) -> Sequence[Mark]:
    """Return the marks, if they can be of this store and this clock."""
    return marks if marks and marks[-1].revision < written_at and marks[-1].time <= now else []


def _encode(marks: Sequence[Mark]) -> bytes:
    return json.dumps([[mark.revision, mark.time] for mark in marks]).encode()


def _decode(value: bytes) -> Sequence[Mark]:
    try:
        return [Mark(int(revision), int(time)) for revision, time in json.loads(value)]
    except (ValueError, TypeError):
        return []
