"""The store's port in memory: etcd's semantics without etcd, for model tests and whatever needs no durability."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Literal

from federation.etcd.txn import check
from federation.store import Change, Compacted, KeyValue, Revision, Snapshot, Txn, TxnResult, WentBack
from fedmarket.errors import NotFound

Moment = Literal["before", "after"]
Fault = Callable[[Txn, Moment], None]
"""Called before and after each transaction is applied; what it raises is what the caller of `txn` sees.

Raising StoreUnavailable before means "not applied", after means "applied, but the answer was lost".
"""


def no_fault(txn: Txn, moment: Moment) -> None:
    """Let every transaction pass."""


@dataclass(frozen=True, slots=True)
class Backup:
    """All that a store held at one revision."""

    revision: int
    items: Mapping[str, KeyValue]
    leases: Mapping[int, frozenset[str]]
    """Each lease that was held, and the keys that were bound to it."""


class MemoryLease:
    """A lease that lasts as long as its context, unless `MemoryStore.expire` ends it."""

    def __init__(self, lease_id: int) -> None:
        self.id = lease_id
        self.lost = False
        self.keys: set[str] = set()


class MemoryStore:
    """A `federation.store.Store` with one history for all who share the object."""

    def __init__(self, fault: Fault = no_fault) -> None:
        self.fault = fault
        self._items: dict[str, KeyValue] = {}
        self._history: list[Revision] = []
        """The revisions after `_compacted`, one after the other."""
        self._compacted = 1  # as etcd, which begins at revision 1 with nothing
        self._restored: list[int] = []
        """The revision to which each `restore` put the store back."""
        self._leases: dict[int, MemoryLease] = {}
        self._lease_ids = count(1)
        self._changed = asyncio.Event()

    @property
    def revision(self) -> int:
        """The revision of the newest change."""
        return self._compacted + len(self._history)

    async def get(self, key: str) -> KeyValue | None:
        """Read one key."""
        await asyncio.sleep(0)
        return self._items.get(key)

    async def snapshot(self, prefix: str) -> Snapshot:
        """Read every key that begins with `prefix`."""
        await asyncio.sleep(0)
        items = [self._items[key] for key in sorted(self._items) if key.startswith(prefix)]
        return Snapshot(self.revision, items)

    async def txn(self, txn: Txn) -> TxnResult:
        """Apply a guarded transaction."""
        check(txn)
        await asyncio.sleep(0)  # others run here, as they do while etcd is asked
        self.fault(txn, "before")
        result = self._apply(txn)
        self.fault(txn, "after")
        return result

    async def watch(self, prefix: str, start_revision: int) -> AsyncGenerator[Revision, None]:
        """Yield each revision from `start_revision` on that changed something below `prefix`.

        As etcd's client, it raises WentBack when the store was put back behind what it has delivered.
        """
        following, known = max(start_revision, 2), len(self._restored)
        while True:
            if min([self.revision, *self._restored[known:]]) < following - 1:
                raise WentBack("the store has gone back")
            if following <= self._compacted:
                raise Compacted(f"history before revision {self._compacted + 1} is gone")
            if following > self.revision:
                await self._changed.wait()
                continue
            revision = self._history[following - self._compacted - 1]
            following += 1
            changes = [change for change in revision.changes if change.key.startswith(prefix)]
            if changes:
                yield Revision(revision.revision, changes)

    @asynccontextmanager
    async def lease(self, ttl_seconds: float) -> AsyncGenerator[MemoryLease, None]:  # noqa: ARG002 -- the port's
        """Hold a lease while the context is open; it is always kept alive in time."""
        lease = MemoryLease(next(self._lease_ids))
        self._leases[lease.id] = lease
        try:
            yield lease
        finally:
            self.expire(lease.id)

    def expire(self, lease_id: int) -> None:
        """End a lease, as if its holder had not kept it alive. Nothing happens if it has ended already."""
        lease = self._leases.pop(lease_id, None)
        if lease is not None:
            lease.lost = True
            self._record(self._delete(lease.keys))

    def compact(self, revision: int) -> None:
        """Forget the history up to and with `revision`."""
        forgotten = min(revision, self.revision) - self._compacted
        if forgotten > 0:
            del self._history[:forgotten]
            self._compacted += forgotten

    def backup(self) -> Backup:
        """Return what a snapshot of the store would hold now."""
        leases = {lease.id: frozenset(lease.keys) for lease in self._leases.values()}
        return Backup(self.revision, dict(self._items), leases)

    def restore(self, backup: Backup) -> None:
        """Hold what a backup holds, and nothing else: the revision goes back, and history is gone.

        A lease that was taken since is lost. One that has ended since is back for as long as it takes etcd to find
        that nobody keeps it alive: here it ends at once.
        """
        self._items, self._history, self._compacted = dict(backup.items), [], backup.revision
        self._restored.append(backup.revision)
        for lease in list(self._leases.values()):
            lease.keys = set(backup.leases.get(lease.id, ()))
            if lease.id not in backup.leases:
                self.expire(lease.id)
        ended = [keys for lease_id, keys in backup.leases.items() if lease_id not in self._leases]
        self._record(self._delete(frozenset[str]().union(*ended)))
        self._wake()

    def _apply(self, txn: Txn) -> TxnResult:
        if not self._holds(txn):
            current = self._items.get(txn.read_on_failure) if txn.read_on_failure is not None else None
            return TxnResult(False, self.revision, current)
        if txn.lease and txn.puts and txn.lease not in self._leases:
            raise NotFound(f"the lease {txn.lease} has ended: take a new lease")
        self._record([*self._put(txn), *self._delete(txn.deletes)])
        return TxnResult(True, self.revision)

    def _holds(self, txn: Txn) -> bool:
        unchanged = all(self._mod_revision(key) == seen for key, seen in txn.guards.items())
        return unchanged and all(self._mod_revision(key) <= seen for key, seen in txn.not_newer.items())

    def _mod_revision(self, key: str) -> int:
        item = self._items.get(key)
        return item.mod_revision if item else 0

    def _put(self, txn: Txn) -> Iterable[Change]:
        for key, value in txn.puts.items():
            self._unbind(key)
            if txn.lease:
                self._leases[txn.lease].keys.add(key)
            self._items[key] = KeyValue(key, value, self.revision + 1)
            yield Change(key, value)

    def _delete(self, keys: Iterable[str]) -> Iterable[Change]:
        for key in sorted(keys):
            if self._items.pop(key, None) is not None:
                self._unbind(key)
                yield Change(key, None)

    def _unbind(self, key: str) -> None:
        for lease in self._leases.values():
            lease.keys.discard(key)

    def _record(self, changes: Iterable[Change]) -> None:
        """Make the next revision of the changes; where nothing changed there is none, as in etcd."""
        made = list(changes)
        if made:
            self._history.append(Revision(self.revision + 1, made))
            self._wake()

    def _wake(self) -> None:
        """Have every open watch look again."""
        self._changed.set()
        self._changed = asyncio.Event()
