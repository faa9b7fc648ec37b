"""A zone's store as the model test has it: late, down, losing its answers; and what one agent has of it."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from federation.memory import MemoryLease, MemoryStore, Moment
from federation.store import Change, KeyValue, Revision, Snapshot, StoreUnavailable, Txn, TxnResult


@dataclass
class Lag:
    """How long a store takes, in virtual seconds."""

    request: float = 0.0003
    answer: float = 0.0003
    watch: float = 0.0004


class FaultyStore(MemoryStore):
    """A store in memory that can be slow, be down, and lose its answers."""

    def __init__(self, zone: int, journal: list[tuple[str, Revision]], name: str = "") -> None:
        super().__init__(self._fail)
        self.zone = zone
        self.name = name or str(zone)
        self._journal = journal
        """Every revision of every store, in the order in which they came to be, under the names of the stores."""
        self.lag = Lag()
        self.down = False
        self.losing: list[Moment] = []
        """For each of the next transactions, at which moment its answer is lost."""

    async def get(self, key: str) -> KeyValue | None:
        await asyncio.sleep(self.lag.request)
        if self.down:
            raise StoreUnavailable("the store is down")
        return await super().get(key)

    async def snapshot(self, prefix: str) -> Snapshot:
        snapshot = await super().snapshot(prefix)
        await asyncio.sleep(self.lag.answer)
        return snapshot

    async def txn(self, txn: Txn) -> TxnResult:
        result = await self.arrive(txn)
        await asyncio.sleep(self.lag.answer)
        return result

    async def arrive(self, txn: Txn) -> TxnResult:
        """Apply a transaction that is on its way, without its answer being on its way back."""
        restored = len(self._restored)
        await asyncio.sleep(self.lag.request)
        if len(self._restored) > restored:
            raise StoreUnavailable("the store was stopped, and put back")
        return await super().txn(txn)

    async def watch(self, prefix: str, start_revision: int) -> AsyncGenerator[Revision, None]:
        async for revision in super().watch(prefix, start_revision):
            await asyncio.sleep(self.lag.watch)
            yield revision

    def heal(self) -> None:
        """Answer at once, and always."""
        self.lag, self.down, self.losing = Lag(), False, []

    def _fail(self, txn: Txn, moment: Moment) -> None:
        if self.down:
            raise StoreUnavailable("the store is down")
        if self.losing and self.losing[0] == moment:
            self.losing.pop(0)
            raise StoreUnavailable("the answer was lost")

    def _record(self, changes: Iterable[Change]) -> None:
        before = self.revision
        super()._record(changes)
        if self.revision > before:
            self._journal.append((self.name, self._history[-1]))


class Connection:
    """What one agent has of a store. A transaction that it has sent is applied also if the agent dies meanwhile."""

    def __init__(self, store: FaultyStore) -> None:
        self.store = store
        self.under_way: set[asyncio.Task[TxnResult]] = set()

    async def get(self, key: str) -> KeyValue | None:
        return await self.store.get(key)

    async def snapshot(self, prefix: str) -> Snapshot:
        return await self.store.snapshot(prefix)

    async def txn(self, txn: Txn) -> TxnResult:
        sent = asyncio.get_running_loop().create_task(self.store.arrive(txn))
        self.under_way.add(sent)
        sent.add_done_callback(self._arrived)
        result = await asyncio.shield(sent)
        await asyncio.sleep(self.store.lag.answer)
        return result

    def watch(self, prefix: str, start_revision: int) -> AsyncGenerator[Revision, None]:
        return self.store.watch(prefix, start_revision)

    def lease(self, ttl_seconds: float) -> AbstractAsyncContextManager[MemoryLease]:
        return self.store.lease(ttl_seconds)

    def lose(self) -> None:
        """Let nothing that is under way arrive."""
        for sent in self.under_way:
            sent.cancel()

    def _arrived(self, sent: "asyncio.Task[Any]") -> None:
        self.under_way.discard(sent)
        if not sent.cancelled():
            sent.exception()  # seen, also where nobody waits for it any more
