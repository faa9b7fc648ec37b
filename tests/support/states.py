"""The tables of docs/replication.md as data, and a link that a test leads into each of their states.

The link, its follower, sink and replica are the real ones; the peer says what the test tells it to; time is virtual.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from federation.catalog import Catalog, Publication
from federation.commit import CatalogState, Origin, build_commit, seal_tree
from federation.head import FEDERATION, SealedHead, seal
from federation.keys import HEAD, Keyspace
from federation.link.direct import Direct, DirectSettings
from federation.link.follow import Follower, FollowSettings
from federation.link.link import STICKY, Link, LinkSettings, LinkStatus
from federation.link.ring import Ring
from federation.link.sink import State
from federation.link.source import Source
from federation.link.stream import StreamBroken
from federation.records import encode
from federation.store import StoreUnavailable, Txn
from federation.tree import Tree
from federation.trust.keys import ZoneKey
from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead
from fedmarket.pb.fedmarket.v1.peer_pb2 import (
    Beat,
    Bucket,
    Commit,
    Diff,
    FromSink,
    FromSource,
    Hello,
    Want,
    Welcome,
)
from fedmarket.retry import Backoff, Random
from tests.support.federation import End, key_of, market, pipe
from tests.support.model import FaultyStore

DOCUMENT = Path(__file__).parents[2] / "docs" / "replication.md"

PEER, ME = 0, 100
KEYSPACE = Keyspace("/fedmarket/1/", ME)
REPLICA, HOME = KEYSPACE.replica(PEER), KEYSPACE.catalog(PEER)

SETTLED_SECONDS = 1.0
"""Virtual; all that an event leads to at once has happened by then, and nothing else."""
PAUSE_SECONDS = 60.0
"""Between two attempts of a link that is DOWN."""
PROBE_SECONDS = 600.0
"""Until a link that is REFUSED asks again, where that may help."""


# -- the document


@dataclass(frozen=True)
class Cell:
    """What the document says that an event does in a state."""

    event: str
    state: str
    outcome: frozenset[str]

    def __str__(self) -> str:
        return f"{self.state} - {self.event}"


def cells(states: Sequence[str]) -> list[Cell]:
    """Return the cells of every table of the document whose columns are these states.

    An event is called by the head of its table's first column and of its row.
    """
    found: list[Cell] = []
    group = ""
    for line in DOCUMENT.read_text().splitlines():
        if not line.startswith("|"):
            group = ""
            continue
        first, *rest = (text.strip() for text in line.strip("|").split("|"))
        if rest == list(states):
            group = first
        elif group and not first.startswith("---"):
            assert len(rest) == len(states), line
            found += [
                Cell(f"{group}: {first}", state, frozenset(text.split(", ")))
                for state, text in zip(states, rest, strict=True)
            ]
    return found


def words(heading: str) -> set[str]:
    """Return the outcomes that the first table below a heading explains."""
    section = DOCUMENT.read_text().partition(f"\n## {heading}\n")[2]
    table = section.partition("| word | meaning |")[2].partition("\n\n")[0]
    firsts = [row.split("|")[1].strip() for row in table.splitlines() if row.startswith("|") and "---" not in row]
    return {word.strip("`") for first in firsts for word in first.split(", ")}


# -- the peer's history


def _history() -> tuple[Ring, list[CatalogState]]:
    """Return six commits of the peer; the third is the one that the replica holds."""
    origin = Origin(PEER, FEDERATION, HOME, key_of(PEER), "agent-0")
    head = seal_tree(origin, (1, 1), None, Tree.empty(), {}, 0)
    states, ring = [CatalogState(head, Tree.empty(), 1)], Ring()
    steps: list[dict[str, bytes | None]] = [
        {f"market/{n}": encode(market(f"m{n}")) for n in (100, 101, 102)},
        {"market/100": encode(market("held"))},
        {"market/103": encode(market("next"))},
        {"market/101": encode(market("after next"))},
        {"market/102": None, "market/104": encode(market("last"))},
    ]
    ring.publish(Publication(states[0], frozenset(), consecutive=False))
    for changes in steps:
        commit = build_commit(origin, states[-1], changes, {}, 0)
        states.append(CatalogState(commit.head, commit.tree, len(states) + 1))
        ring.publish(Publication(states[-1], frozenset(changes), consecutive=True))
    return ring, states


RING, STATES = _history()
FIRST, OLDER, HELD, NEXT, AFTER_NEXT, LAST = STATES


def resealed(state: CatalogState, key: ZoneKey | None = None, **fields: object) -> SignedHead:
    """Return the head of a state with other fields, signed by the peer or by another key."""
    return sealed(state, key, **fields).signed


def sealed(state: CatalogState, key: ZoneKey | None = None, **fields: object) -> SealedHead:
    """Return the head of a state with other fields, signed by the peer or by another key."""
    return seal(replace(state.head.head, **fields), key or key_of(PEER))  # type: ignore[arg-type]


def welcome(head: SignedHead, **fields: Any) -> FromSource:
    """Return a Welcome of protocol 1, unless told otherwise."""
    return FromSource(welcome=Welcome(**{"protocol": 1, "head": head, **fields}))


def commit_of(state: CatalogState) -> Commit:
    """Return the commit that led to a state, as it is sent."""
    entry = RING.after((1, state.head.pair[1] - 1))
    assert entry is not None
    return entry.message


def beat(head: SignedHead) -> FromSource:
    """Return a Beat."""
    return FromSource(beat=Beat(head=head))


def diff_of(state: CatalogState, head: SignedHead | None = None) -> FromSource:
    """Return the Diff of a state, under its own head or another one."""
    return FromSource(diff=Diff(head=head or state.head.signed, buckets=state.tree.digests))


def bucket_for(want: Want) -> Bucket:
    """Return the bucket of the last state that a follower asks for, as the real source sends it."""
    source = Source(RING, ME, lambda: None)
    source.receive(FromSink(hello=Hello(zone=ME, protocol_min=1, protocol_max=1)))
    source.receive(FromSink(want=want))
    while (message := source.next()) is not None:
        if message.HasField("bucket"):
            return message.bucket
    raise AssertionError("a source answers every Want")


# -- the link


class SteadyBackoff(Backoff):
    """Waits as long as it may, always."""

    def delay(self, failures: int, random: Random = lambda: 1.0) -> float:
        """Return the same seconds each time."""
        return super().delay(failures, random)


FOLLOW = FollowSettings(backoff=SteadyBackoff(first_seconds=1.0, longest_seconds=1.0))


@dataclass(frozen=True)
class Sight:
    """What can be seen of a link from outside, at one moment."""

    status: LinkStatus
    stored: Mapping[str, bytes]
    head_revision: int
    heard: tuple[FromSink, ...]
    """What the peer has heard on the stream that is open."""
    records: Mapping[str, bytes]
    """What is stored without the head."""
    dials: int
    judged: int
    """How many heads of our own were looked into."""
    open: bool


class Bench:
    """Zone 100 following zone 0, which a test speaks for. Use as a context, in a loop of virtual time."""

    def __init__(self) -> None:
        self.store = FaultyStore(ME, [])
        self.reachable = True
        self.peer: End[FromSource, FromSink] | None = None
        self.heard: list[FromSink] = []
        self.dials = 0
        self.judged: list[SignedHead] = []
        self.waited = False
        """Whether the follower was seen not to read."""
        self.before: Sight
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Bench":
        puts = {REPLICA + key: value for key, value in HELD.tree.items()}
        await self.store.txn(Txn({}, puts={**puts, REPLICA + HEAD: HELD.head.encode()}))
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self, pinned: ZoneKey | None = None) -> None:
        """Start the agent: its replica's watch, and its link."""
        key = (pinned or key_of(PEER)).public
        self.replica = Catalog(PEER, REPLICA, key, own=False)
        self.direct = Direct(KEYSPACE, PEER, key, self.store, self.replica, DirectSettings())
        follower = Follower(KEYSPACE, PEER, key, self.store, self.replica, self._judge, FOLLOW)
        pace = SteadyBackoff(first_seconds=PAUSE_SECONDS, longest_seconds=PAUSE_SECONDS)
        settings = LinkSettings(backoff=pace, probe_seconds=PROBE_SECONDS)
        self.link = Link(follower, self.direct, self._dial, settings, asyncio.get_running_loop().time)
        parts = (self.replica.follow(self.store), self.direct.run(), self.link.run())
        self._tasks = [asyncio.create_task(part) for part in parts]
        await settle()

    async def stop(self) -> None:
        """Kill the agent."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def say(self, *messages: FromSource) -> None:
        """Say something to the follower, as the peer. Raises StreamBroken if there is no stream."""
        for message in messages:
            if self.peer is None:
                raise StreamBroken("no stream is open")
            await self.peer.send(message)
        await settle()

    async def hang_up(self) -> None:
        """Break the stream."""
        assert self.peer is not None
        self.peer.close()
        await settle()

    @property
    def want(self) -> Want:
        """The bucket that the follower asked for last."""
        return next(m.want for m in reversed(self.heard) if m.HasField("want"))

    async def answer(self) -> None:
        """Give the follower every bucket that it asks for, until it asks for no more."""
        answered = 0
        while (asked := sum(m.HasField("want") for m in self.heard)) > answered:
            answered = asked
            await self.say(FromSource(bucket=bucket_for(self.want)))

    async def put(self, key: str, value: bytes) -> None:
        """Change a key of the replica by hand, in etcd."""
        await self.store.txn(Txn({}, puts={REPLICA + key: value}))
        await settle()

    async def write_at_home(
        self, state: CatalogState, head: SignedHead | None = None, *, seconds: float = 2 * SETTLED_SECONDS
    ) -> None:
        """Write a state of the peer where the peer's own agents do, into the etcd that both zones then share."""
        stored = (await self.store.snapshot(HOME)).items
        puts = {HOME + key: value for key, value in state.tree.items()}
        deletes = [item.key for item in stored if item.key not in {*puts, HOME + HEAD}]
        puts[HOME + HEAD] = (head or state.head.signed).SerializeToString()
        await self.store.txn(Txn({}, puts=puts, deletes=deletes))
        await settle(seconds)

    async def mark(self) -> None:
        """Take what is to be seen now for what was before the event."""
        self.before = await self.look()

    async def look(self) -> Sight:
        """Return what can be seen of the link now."""
        for task in self._tasks:
            assert not task.done(), task.exception()
        items = (await self.store.snapshot(REPLICA)).items
        stored = {item.key.removeprefix(REPLICA): item.value for item in items}
        return Sight(
            status=replace(self.link.status),
            stored=stored,
            records={key: value for key, value in stored.items() if key != HEAD},
            head_revision=next((item.mod_revision for item in items if item.key == REPLICA + HEAD), 0),
            heard=tuple(self.heard),
            dials=self.dials,
            judged=len(self.judged),
            open=self.peer is not None,
        )

    @asynccontextmanager
    async def _dial(self) -> AsyncGenerator[End[FromSink, FromSource], None]:
        self.dials += 1
        if not self.reachable:
            raise StreamBroken("the peer cannot be reached")
        mine, its = pipe()
        self.peer, self.heard = its, []
        hearing = asyncio.create_task(self._hear(its))
        try:
            yield mine
        finally:
            self.peer = None
            mine.close()
            its.close()
            await hearing

    async def _judge(self, yours: SignedHead) -> None:
        if self.store.down:
            raise StoreUnavailable("etcd does not answer")
        self.judged.append(yours)

    async def _hear(self, its: End[FromSource, FromSink]) -> None:
        with suppress(StreamBroken):
            while True:
                self.heard.append(await its.receive())


async def settle(seconds: float = SETTLED_SECONDS) -> None:
    """Let what was begun come to its end."""
    await asyncio.sleep(seconds)


def outcome(before: Sight, after: Sight) -> set[str]:
    """Say in the words of the document what happened between two sights of a link."""
    seen: set[str] = set()
    dialled = after.dials > before.dials
    if dialled:
        seen.add("dial")
    else:
        seen |= {(m.WhichOneof("message") or "nothing").capitalize() for m in after.heard[len(before.heard) :]}
    moved = after.status.state is not before.status.state
    if (moved or (dialled and not after.open)) and after.status.state in STICKY:
        seen.add(after.status.state.name)
    elif (before.open or dialled) and not after.open and after.status.state is State.DOWN:
        seen.add("close")
    elif moved and not dialled:
        seen.add(f"→ {after.status.state.name}")
    if after.judged > before.judged:
        seen.add("judge")
    if after.stored != before.stored:
        seen.add("keep" if after.records == before.records and not after.open else "store")
    elif after.head_revision != before.head_revision:
        seen.add("fence")
    if after.status.confirmed_at not in {None, before.status.confirmed_at}:
        seen.add("current")
    if not seen:
        seen.add("ignore" if after.status.there is before.status.there else "hear")
    return seen
