"""Following one peer: connects a sink to a stream and to the store."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from federation.catalog import Catalog
from federation.head import Verifier, unseal_bytes
from federation.keys import HEAD, LOST, Keyspace
from federation.link.sink import Action, Close, Fence, Send, Sink, State, Write
from federation.link.stream import Stream, StreamBroken, send_within
from federation.store import Change, Revision, Store, Txn
from federation.tree import Tree
from fedmarket.errors import Corrupt, FedmarketError
from fedmarket.pb.fedmarket.v1.peer_pb2 import FromSink, FromSource


@dataclass(frozen=True, slots=True)
class FollowSettings:
    """Bounds of a stream, on the follower's side."""

    silence_seconds: float = 6.0
    """After this long without a message the peer is taken for down: three beats."""
    catch_up_seconds: float = 5.0
    """How long to wait for our own watch."""
    inbox: int = 64
    """Messages that may wait to be verified; then the peer is not read."""


class Follower:
    """Stores what one peer says, as far as it is verified. One stream at a time."""

    def __init__(
        self, keyspace: Keyspace, peer: int, key: Verifier, store: Store, replica: Catalog, settings: FollowSettings
    ) -> None:
        self._keyspace = keyspace
        self._peer = peer
        self._key = key
        self._store = store
        self._replica = replica
        self._settings = settings
        self._prefix = keyspace.replica(peer)
        self._seen = 0

    async def follow(self, stream: Stream[FromSink, FromSource], progress: Callable[[Sink], None]) -> Close:
        """Follow until the stream ends, and say why it did. `progress` is called whenever the sink may have moved."""
        try:
            sink = await self._load()
        except Corrupt as error:
            return Close(f"the copy of zone {self._peer} here is of another key: {error.message}", State.REFUSED)
        inbox: asyncio.Queue[FromSource | str] = asyncio.Queue(self._settings.inbox)
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(_read(stream, inbox))
            try:
                return await self._talk(sink, stream, inbox, progress)
            except StreamBroken as broken:
                return Close(str(broken))
            except FedmarketError as error:  # our own etcd: nothing more is read until it answers again
                return Close(error.message)
            finally:
                reader.cancel()

    async def _load(self) -> Sink:
        """Make a sink of what is stored. The head is read linearizably, and our watch must have caught up with it."""
        stored = await self._store.get(self._prefix + HEAD)
        if stored is not None:
            await self._replica.wait_applied(stored.mod_revision, self._settings.catch_up_seconds)
        raw, tree, self._seen = self._replica.stored
        return Sink(self._keyspace.zone, self._peer, self._key, unseal_bytes(raw, self._key) if raw else None, tree)

    async def _talk(
        self,
        sink: Sink,
        stream: Stream[FromSink, FromSource],
        inbox: asyncio.Queue[FromSource | str],
        progress: Callable[[Sink], None],
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
                close = await self._perform(sink, stream, sink.receive(message))
                if close is not None:
                    return close
                if inbox.empty() or sink.full:
                    break
                message = inbox.get_nowait()
            while (write := sink.flush()) is not None:
                close = await self._perform(sink, stream, [write])
                if close is not None:
                    return close
            if sink.state is State.TAIL and self._replica.syncing:
                return Close("the records stored here are not those of their head: comparing them with the peer's")
            progress(sink)

    async def _perform(self, sink: Sink, stream: Stream[FromSink, FromSource], actions: list[Action]) -> Close | None:
        todo = deque(actions)
        while todo:
            match todo.popleft():
                case Send(message):
                    await send_within(stream, message, self._settings.silence_seconds)
                case Write() as write:
                    if not await self._write(write):
                        return Close("another agent of this zone runs this link")
                    todo.extend(sink.wrote())
                case Fence(head):
                    tree = await self._fence(head)
                    if tree is None:
                        return Close("another agent of this zone runs this link")
                    todo.extend(sink.fenced(tree))
                case Close() as close:
                    return close
        return None

    async def _write(self, write: Write) -> bool:
        """Store a Write if the replica's head is still the one we saw; False: another agent was faster."""
        puts = {self._prefix + key: value for key, value in write.puts.items()}
        puts |= {f"{self._prefix}{LOST}/{write.epoch}/{key}": value for key, value in write.lost.items()}
        if write.head is not None:
            puts[self._prefix + HEAD] = write.head
        deletes = [self._prefix + key for key in write.deletes]
        result = await self._store.txn(Txn({self._prefix + HEAD: self._seen}, puts=puts, deletes=deletes))
        if not result.succeeded:
            return False
        if write.head is not None:
            self._seen = result.revision
        changes = [*(Change(key, value) for key, value in puts.items()), *(Change(key, None) for key in deletes)]
        self._replica.apply(Revision(result.revision, changes), direct=True)
        return True

    async def _fence(self, head: bytes) -> Tree | None:
        """Rewrite the head, so that no DIFF of another agent goes on, and return the records as of then."""
        at_head = self._prefix + HEAD
        result = await self._store.txn(Txn({at_head: self._seen}, puts={at_head: head}))
        if not result.succeeded:
            return None
        self._seen = result.revision
        await self._replica.wait_applied(result.revision, self._settings.catch_up_seconds)
        return self._replica.stored[1]


async def _read(stream: Stream[FromSink, FromSource], inbox: "asyncio.Queue[FromSource | str]") -> None:
    try:
        while True:
            await inbox.put(await stream.receive())
    except StreamBroken as broken:
        await inbox.put(str(broken))
