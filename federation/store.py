"""The port to a zone's own key-value store. Two adapters: federation/memory.py and federation/etcd/store.py.

Semantics are etcd's: one revision counter for the whole store, a transaction is one revision, a watch delivers
complete revisions in order, history before a compaction is gone.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from fedmarket.errors import Unavailable


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as it was at some revision."""

    key: str
    value: bytes
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All keys below a prefix at one revision."""

    revision: int
    items: Sequence[KeyValue]


@dataclass(frozen=True, slots=True)
class Change:
    """One key of a revision: a put, or a delete (`value` None)."""

    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Revision:
    """Everything below the watched prefix that one revision changed, complete."""

    revision: int
    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class Txn:
    """If every guard holds, do all puts and deletes in one revision; else nothing, and read `read_on_failure`."""

    guards: Mapping[str, int]
    """Key to the mod_revision that it must have; 0: the key must not exist."""
    not_newer: Mapping[str, int] = field(default_factory=dict)
    """Key to the greatest mod_revision that it may have; a key that does not exist holds."""
    puts: Mapping[str, bytes] = field(default_factory=dict)
    deletes: Sequence[str] = ()
    read_on_failure: str | None = None
    lease: int = 0
    """Puts are bound to this lease; 0: none."""


@dataclass(frozen=True, slots=True)
class TxnResult:
    """Outcome of a transaction that is known."""

    succeeded: bool
    revision: int
    """The store's revision after it: that of the change if it succeeded."""
    current: KeyValue | None = None
    """What `read_on_failure` holds, if the guards did not hold."""


class Compacted(Exception):
    """The revision asked for is gone: list again."""


class WentBack(Compacted):
    """And more than history: the store was put back, or is another one than it was."""


class StoreUnavailable(Unavailable):
    """The store does not answer. For a transaction: its outcome is unknown."""


class Lease(Protocol):
    """A lease that is kept alive while its context is open, and revoked at its end."""

    @property
    def id(self) -> int:
        """The store's id of the lease."""
        ...

    @property
    def lost(self) -> bool:
        """Whether it could not be kept alive, so that what was bound to it is gone or soon will be."""
        ...


class Store(Protocol):
    """What the federation asks of a store. Every call has a deadline and raises StoreUnavailable when it passes."""

    async def get(self, key: str) -> KeyValue | None:
        """Read one key, linearizably."""
        ...

    async def snapshot(self, prefix: str) -> Snapshot:
        """Read every key that begins with `prefix`, all at one revision."""
        ...

    async def txn(self, txn: Txn) -> TxnResult:
        """Apply a guarded transaction. StoreUnavailable means that the outcome is unknown."""
        ...

    def watch(self, prefix: str, start_revision: int) -> AsyncGenerator[Revision, None]:
        """Yield each revision from `start_revision` on that changed something below `prefix`: whole, in order, once.

        Reconnects by itself. Raises Compacted if history from the next revision on is gone, WentBack if the store is
        no longer the one that it was.
        """
        ...

    def lease(self, ttl_seconds: float) -> AbstractAsyncContextManager[Lease]:
        """Hold a lease while the context is open."""
        ...
