"""What tests of the federation are made of: keys, streams that can be cut, and whole zones in memory."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Generic, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.catalog import Catalog
from federation.commit import Origin
from federation.draft import Draft
from federation.head import FEDERATION, seal
from federation.keys import HEAD, Keyspace
from federation.link.direct import Direct, DirectSettings
from federation.link.follow import Follower, FollowSettings
from federation.link.link import Link, LinkSettings
from federation.link.ring import Ring
from federation.link.serve import ServeSettings, serve
from federation.link.source import Source
from federation.link.stream import StreamBroken
from federation.memory import MemoryStore
from federation.opening import open_catalog
from federation.records import Record, decode
from federation.restore import Restorer
from federation.store import Txn
from federation.trust.keys import ZoneKey
from federation.writer import Writer, WriterSettings
from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead
from fedmarket.pb.fedmarket.v1.record_pb2 import Envelope, MarketRecord
from fedmarket.retry import Backoff

S = TypeVar("S")
R = TypeVar("R")

SERVE = ServeSettings(beat_seconds=0.05)
FOLLOW = FollowSettings(silence_seconds=2.0, catch_up_seconds=5.0)
WRITER = WriterSettings(
    catch_up_seconds=5.0, resolve_seconds=5.0, backoff=Backoff(first_seconds=0.01, longest_seconds=0.01)
)
DIRECT = DirectSettings(window_seconds=1.0, keep_seconds=0.01)
BACKOFF = Backoff(first_seconds=0.001, longest_seconds=0.01)


def key_from_seed(seed: bytes) -> ZoneKey:
    """Return the zone key of a 32-byte seed."""
    return ZoneKey(Ed25519PrivateKey.from_private_bytes(seed))


def key_of(zone: int) -> ZoneKey:
    """Return the key of a test zone."""
    return key_from_seed(hashlib.sha256(f"zone {zone}".encode()).digest())


class NoMark:
    """A high-water mark that never was."""

    def mark(self, catalog: int) -> None:
        """Return none."""


class End(Generic[S, R]):
    """One end of a stream in memory."""

    def __init__(self, outgoing: "asyncio.Queue[S | None]", incoming: "asyncio.Queue[R | None]") -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self.cut = asyncio.Event()

    async def send(self, message: S) -> None:
        """Send, unless the stream is cut."""
        await asyncio.sleep(0)
        if self.cut.is_set():
            raise StreamBroken("cut")
        await self._outgoing.put(message)

    async def receive(self) -> R:
        """Receive, until the other end is closed or the stream is cut."""
        message = await self._incoming.get()
        if message is None:
            raise StreamBroken("the other end closed the stream")
        return message

    def close(self) -> None:
        """Break the stream, on both ends."""
        self.cut.set()
        for queue in (self._outgoing, self._incoming):
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(None)


def pipe() -> tuple[End[Any, Any], End[Any, Any]]:
    """Return the two ends of a stream: the sink's and the source's."""
    there: asyncio.Queue[Any] = asyncio.Queue(32)
    back: asyncio.Queue[Any] = asyncio.Queue(32)
    return End(there, back), End(back, there)


class Zone:
    """A zone's federation over a store in memory, without gRPC. Use as a context."""

    def __init__(self, zone: int, store: MemoryStore | None = None, *, ring_bytes: int = 1 << 20) -> None:
        self.zone = zone
        self.key = key_of(zone)
        self.store = store or MemoryStore()
        self.keyspace = Keyspace("/fedmarket/1/", zone)
        self.own = Catalog(zone, self.keyspace.own, self.key.public, own=True)
        self.ring = Ring(ring_bytes)
        self.own.listen(self.ring.publish)
        self.origin = Origin(zone, FEDERATION, self.keyspace.own, self.key, f"agent-{zone}", self.keyspace.requests)
        self.writer = Writer(self.store, self.own, self.origin, WRITER)
        self.restorer = Restorer(self.store, self.own, self.writer, [], self.key.public, 5.0)
        self.replicas: dict[int, Catalog] = {}
        self.direct: dict[int, Direct] = {}
        self.links: dict[int, Link] = {}
        self.homes: dict[int, Zone] = {}
        """Which agent of a home is dialled."""
        self._streams: set[End[Any, Any]] = set()
        self.reachable = True

    async def __aenter__(self) -> Self:
        self._exits = AsyncExitStack()
        self._tasks = await self._exits.enter_async_context(asyncio.TaskGroup())
        await open_catalog(self.store, self.origin, NoMark(), 0)  # type: ignore[arg-type]
        self._running = [
            self._tasks.create_task(self.own.follow(self.store)),
            self._tasks.create_task(self.writer.run()),
        ]
        await self.own.wait_for((1, 1), 5)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._running:
            task.cancel()
        for stream in self._streams:
            stream.close()
        await self._exits.aclose()

    def follow(self, home: "Zone") -> Link:
        """Follow another zone."""
        replica = Catalog(home.zone, self.keyspace.replica(home.zone), home.key.public, own=False)
        key, witness = home.key.public, self.restorer.show
        follower = Follower(self.keyspace, home.zone, key, self.store, replica, witness, FOLLOW)
        direct = Direct(self.keyspace, home.zone, key, self.store, replica, DIRECT)
        link = Link(follower, direct, lambda: self.dial(self.homes[home.zone]), LinkSettings(backoff=BACKOFF))
        self.homes[home.zone] = home
        self.replicas[home.zone], self.direct[home.zone], self.links[home.zone] = replica, direct, link
        parts = [replica.follow(self.store), direct.run(), link.run()]
        self._running += [self._tasks.create_task(part) for part in parts]
        return link

    @asynccontextmanager
    async def dial(self, home: "Zone") -> AsyncGenerator[End[Any, Any], None]:
        """Open a stream to a home that serves it."""
        if not (self.reachable and home.reachable):
            raise StreamBroken("not reachable")
        mine, its = pipe()
        source = Source(home.ring, self.zone, lambda: home.newest_of(self.zone))
        self._streams.add(mine)
        home._streams.add(mine)
        serving = asyncio.create_task(serve(source, its, home.own.pulse, home.restorer.show, SERVE))
        try:
            yield mine
        finally:
            self._streams.discard(mine)
            home._streams.discard(mine)
            mine.close()
            its.close()
            await serving

    def newest_of(self, zone: int) -> SignedHead | None:
        """Return the newest head of another zone that is held here."""
        replica = self.replicas.get(zone)
        return replica.state.head.signed if replica is not None and replica.state is not None else None

    def cut(self) -> None:
        """Break every stream and let none be opened."""
        self.reachable = False
        for stream in list(self._streams):
            stream.close()

    def heal(self) -> None:
        """Let streams be opened again."""
        self.reachable = True

    async def create(self, name: str) -> int:
        """Create a market and return its id."""
        return (await self.writer.commit(lambda draft: draft.create(MarketRecord(name=name)))).value

    async def rename(self, record_id: int, name: str) -> None:
        """Change a market."""

        def change(draft: Draft) -> None:
            record = draft.get(MarketRecord, record_id)
            assert record is not None
            record.message.name = name
            draft.put(record_id, record)

        await self.writer.commit(change)

    async def delete(self, record_id: int) -> None:
        """Delete a market."""
        await self.writer.commit(lambda draft: draft.delete(MarketRecord, record_id))

    async def caught_up_with(self, home: "Zone") -> None:
        """Wait until our replica of `home` is what it has now."""
        await self.replicas[home.zone].wait_for(home.own.pair, 10)


def market(name: str) -> Record[MarketRecord]:
    """Return a market record with a fixed uid."""
    return Record(Envelope(uid=bytes(16), min_reader=1), MarketRecord(name=name))


def names(catalog: Catalog) -> dict[str, str]:
    """Return what a reader of the catalog sees: key to name."""
    return {key: decode(MarketRecord, value).message.name for key, value in catalog.tree.items()}


async def forge(zone: Zone, records: dict[str, bytes], *, signer: ZoneKey | None = None) -> None:
    """Write a catalog that no agent of ours would write, as a hostile peer can in its own etcd."""
    state = zone.own.state
    assert state is not None
    tree = state.tree.apply(records)
    head = replace(state.head.head, seq=state.head.head.seq + 1, prev=state.head.hash, root=tree.root, count=tree.count)
    puts = {zone.keyspace.own + key: value for key, value in records.items()}
    puts[zone.keyspace.own + HEAD] = seal(head, signer or zone.key).encode()
    assert (await zone.store.txn(Txn({}, puts=puts))).succeeded
