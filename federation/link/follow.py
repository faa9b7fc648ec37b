"""Following one peer: connects a sink to a stream and to the store."""

import asyncio
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from federation.catalog import Catalog
from federation.head import Verifier, unseal_bytes
from federation.keys import HEAD, LOST, Keyspace
from federation.link.sink import Action, Close, Fence, Judge, Send, Sink, State, Write
from federation.link.stream import Stream, StreamBroken, Witness, send_within
from federation.store import Change, KeyValue, Revision, Store, Txn, TxnResult
from federation.tree import Tree
from fedmarket import telemetry
from fedmarket.errors import Corrupt, FedmarketError, NoSpace, Unavailable
from fedmarket.pb.fedmarket.v1.peer_pb2 import FromSink, FromSource
from fedmarket.retry import Backoff

_MOVED = (
    "the head of the copy here was moved by another agent of this zone, or by a write whose answer was lost: "
    "reading it again"
)
DEFAULT_BACKOFF = Backoff(first_seconds=0.1, longest_seconds=5.0)


@dataclass(frozen=True, slots=True)
class FollowSettings:
    """Bounds of a stream, on the follower's side."""

    silence_seconds: float = 6.0
    """After this long without a message the peer is taken for down: three beats."""
    catch_up_seconds: float = 5.0
    """How long to wait for our own watch."""
    inbox: int = 64
    """Messages that may wait to be verified; then the peer is not read."""
    backoff: Backoff = DEFAULT_BACKOFF
    """Pace at which our own etcd is tried again when it refuses."""


class Monitor(Protocol):
    """Who is told how a stream goes."""

    def heard(self) -> None:
        """Note that the peer said something."""
        ...

    def progress(self, sink: Sink) -> None:
        """Note that the sink may have moved."""
        ...

    def stalled(self, reason: str) -> None:
        """Note that our own etcd refuses what the peer said; nothing more is read until it takes it."""
        ...


class Follower:
    """Stores what one peer says, as far as it is verified. One stream at a time."""

    def __init__(
        self,
        keyspace: Keyspace,
        peer: int,
        key: Verifier,
        store: Store,
        replica: Catalog,
        witness: Witness,
        settings: FollowSettings,
    ) -> None:
        self._keyspace = keyspace
        self._peer = peer
        self._key = key
        self._store = store
        self._replica = replica
        self._witness = witness
        self._settings = settings
        self._prefix = keyspace.replica(peer)
        self._seen = 0
        self._seen_head = b""

    async def follow(self, stream: Stream[FromSink, FromSource], monitor: Monitor) -> Close:
        """Follow until the stream ends, and say why it did."""
        try:
            sink = await self._load()
        except Corrupt as error:
            return Close(f"the copy of zone {self._peer} here is of another key: {error.message}", State.REFUSED)
        inbox: asyncio.Queue[FromSource | str] = asyncio.Queue(self._settings.inbox)
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(_read(stream, inbox))
            try:
                return await self._talk(sink, stream, inbox, monitor)
            except StreamBroken as broken:
                return Close(str(broken))
            except FedmarketError as error:
                return Close(error.message)
            finally:
                reader.cancel()

    async def _load(self) -> Sink:
        """Make a sink of what is stored. The head is read linearizably, and our watch must have caught up with it."""
        stored = await self._store.get(self._prefix + HEAD)
        if stored is not None:
            await self._replica.wait_applied(stored.mod_revision, self._settings.catch_up_seconds)
        raw, tree, self._seen = self._replica.stored
        self._seen_head = raw
        return Sink(self._keyspace.zone, self._peer, self._key, unseal_bytes(raw, self._key) if raw else None, tree)

    async def _talk(
        self,
        sink: Sink,
        stream: Stream[FromSink, FromSource],
        inbox: asyncio.Queue[FromSource | str],
        monitor: Monitor,
    ) -> Close:
        await send_within(stream, sink.hello(), self._settings.silence_seconds)
        while True:
            try:
                async with asyncio.timeout(self._settings.silence_seconds):
                    message = await inbox.get()
            except TimeoutError:
                return Close(f"nothing was heard for {self._settings.silence_seconds:g} s")
            while True:
                if isinstance(message, str):
                    return Close(message)
                monitor.heard()
                close = await self._perform(stream, sink, sink.receive(message), monitor)
                if close is not None:
                    return close
                if inbox.empty() or sink.full:
                    break
                message = inbox.get_nowait()
            while (write := sink.flush()) is not None:
                close = await self._perform(stream, sink, [write], monitor)
                if close is not None:
                    return close
            if sink.state is State.TAIL and self._replica.syncing:
                return Close("the records stored here are not those of their head: comparing them with the peer's")
            monitor.progress(sink)

    async def _perform(
        self, stream: Stream[FromSink, FromSource], sink: Sink, actions: list[Action], monitor: Monitor
    ) -> Close | None:
        todo = deque(actions)
        while todo:
            match todo.popleft():
                case Send(message):
                    await send_within(stream, message, self._settings.silence_seconds)
                case Write() as write:
                    with self._applying(write):
                        stored = await self._write(write, monitor)
                    if not stored:
                        return Close(_MOVED)
                    todo.extend(sink.wrote())
                case Fence(head):
                    tree = await self._fence(head, monitor)
                    if tree is None:
                        return Close(_MOVED)
                    todo.extend(sink.fenced(tree))
                case Judge(yours):
                    await self._witness(yours)
                case Close() as close:
                    return close
        return None

    def _applying(self, write: Write) -> AbstractContextManager[object]:
        """Return the span of a Write, which is linked to the work at its home; of no work that is traced, none."""
        if not write.traces:
            return nullcontext()
        said = {"fedmarket.home": self._peer, "fedmarket.records": len(write.puts) + len(write.deletes)}
        return telemetry.span("apply", attributes=said, links=write.traces)

    async def _write(self, write: Write, monitor: Monitor) -> bool:
        """Store a Write if the replica's head is still the one we saw; False: another agent was faster."""
        if write.tree is not None:
            await self._replica.prepare(write.tree)
        puts = {self._prefix + key: value for key, value in write.puts.items()}
        puts |= {f"{self._prefix}{LOST}/{write.epoch}/{key}": value for key, value in write.lost.items()}
        if write.head is not None:
            puts[self._prefix + HEAD] = write.head
        deletes = [self._prefix + key for key in write.deletes]
        at_head = self._prefix + HEAD
        txn = Txn({at_head: self._seen}, puts=puts, deletes=deletes, read_on_failure=at_head)
        result = await self._txn(txn, monitor)
        if not result.succeeded:
            return await self._is_stored(write, result.current)
        if write.head is not None:
            self._seen, self._seen_head = result.revision, write.head
        changes = [*(Change(key, value) for key, value in puts.items()), *(Change(key, None) for key in deletes)]
        self._replica.apply(Revision(result.revision, changes), direct=True)
        return True

    async def _is_stored(self, write: Write, current: KeyValue | None) -> bool:
        """Say whether the state that a Write makes is stored all the same, and go on from there.

        By another agent of this zone that follows the same peer, or by this one if an answer was lost. A Write that
        keeps the head that was there makes no state of its own.
        """
        if current is None or current.value != write.head or current.value == self._seen_head:
            return False
        await self._replica.wait_applied(current.mod_revision, self._settings.catch_up_seconds)
        raw, _, revision = self._replica.stored
        if raw != write.head or self._replica.syncing:
            return False
        self._seen, self._seen_head = revision, raw
        return True

    async def _fence(self, head: bytes, monitor: Monitor) -> Tree | None:
        """Rewrite the head, so that no DIFF of another agent goes on, and return the records as of then."""
        at_head = self._prefix + HEAD
        result = await self._txn(Txn({at_head: self._seen}, puts={at_head: head}), monitor)
        if not result.succeeded:
            return None
        self._seen, self._seen_head = result.revision, head
        await self._replica.wait_applied(result.revision, self._settings.catch_up_seconds)
        return self._replica.stored[1]

    async def _txn(self, txn: Txn, monitor: Monitor) -> TxnResult:
        """Apply a transaction, however long our own etcd refuses: meanwhile the peer is not read (backpressure).

        One whose answer was lost and that was applied fails its own guard when it is tried again, as if another agent
        had been faster.
        """
        failures = 0
        while True:
            try:
                return await self._store.txn(txn)
            except (Unavailable, NoSpace) as error:
                failures += 1
                monitor.stalled(error.message)
                await asyncio.sleep(self._settings.backoff.delay(failures))


async def _read(stream: Stream[FromSink, FromSource], inbox: "asyncio.Queue[FromSource | str]") -> None:
    try:
        while True:
            await inbox.put(await stream.receive())
    except StreamBroken as broken:
        await inbox.put(str(broken))
