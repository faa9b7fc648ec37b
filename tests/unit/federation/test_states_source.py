"""Every event in every state of a home's stream: each cell of its tables in docs/replication.md, this test's data."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from federation.head import SealedHead
from federation.link.ring import Ring
from federation.link.serve import ServeSettings, serve
from federation.link.source import Source
from federation.link.stream import StreamBroken
from federation.memory import Moment
from federation.restore import Restorer
from federation.store import Txn
from federation.tree import bucket_index
from fedmarket.errors import NoSpace
from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead
from fedmarket.pb.fedmarket.v1.peer_pb2 import Ack, FromSink, FromSource, Hello, Want
from tests.support.federation import End, Zone, key_of, pipe
from tests.support.model import FaultyStore
from tests.support.states import Cell, cells, resealed, settle, words
from tests.support.virtual_time import VirtualTimeLoop

STATES = ("NEW", "TAIL", "DIFF", "DROPPED")
FOLLOWER = 100
SOON = 0.5
"""Virtual seconds, well below those between two Beats."""


@dataclass(eq=False)
class Bench:
    """A home, and one follower of it for which a test speaks."""

    home: Zone
    source: Source
    serving: "asyncio.Task[None]"
    follower: End[FromSink, FromSource]
    first: SealedHead
    """A head that the home had some commits ago."""
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    heard: list[FromSource] = field(default_factory=list)
    epoch: int = 1

    @property
    def state(self) -> str:
        """Where the source is."""
        if not self.source.greeted:
            return "NEW"
        if self.source._diff is not None:
            return "DIFF"
        return "TAIL" if self.source._unacknowledged is None else "DROPPED"

    @property
    def head(self) -> SealedHead:
        """The home's head."""
        assert self.home.own.state is not None
        return self.home.own.state.head

    async def say(self, *messages: FromSink) -> None:
        """Say something, as the follower."""
        for message in messages:
            await self.follower.send(message)
        await settle(SOON)

    async def hear(self) -> None:
        """Take what the home says, while `reading` is set."""
        with suppress(StreamBroken):
            while True:
                await self.reading.wait()
                self.heard.append(await self.follower.receive())


@asynccontextmanager
async def bench(*, ring_bytes: int, open_: bool) -> AsyncGenerator[Bench, None]:
    async with Zone(0, FaultyStore(0, []), ring_bytes=ring_bytes) as home:
        assert home.own.state is not None
        first = home.own.state.head
        for name in "abc":
            await home.create(name)
        mine, its = pipe()
        source = Source(home.ring if open_ else Ring(), FOLLOWER, lambda: None)
        restorer = Restorer(home.store, home.own, home.writer, [], home.key.public, 5.0)
        serving = asyncio.create_task(serve(source, its, home.own.pulse, restorer.show, ServeSettings()))
        made = Bench(home, source, serving, mine, first)
        made.reading.set()
        hearing = asyncio.create_task(made.hear())
        try:
            yield made
        finally:
            mine.close()
            its.close()
            made.reading.set()
            await asyncio.gather(serving, hearing)


# -- how a state is reached


def hello(have: SignedHead | None, **fields: Any) -> FromSink:
    return FromSink(hello=Hello(**{"zone": FOLLOWER, "protocol_min": 1, "protocol_max": 1, "have": have, **fields}))


async def lead(b: Bench, state: str) -> None:
    if state == "TAIL":
        await b.say(hello(b.head.signed))
    elif state in {"DIFF", "DROPPED"}:
        await b.say(hello(None))
        if state == "DROPPED":
            await settle(63)
    assert b.state == state


# -- events

Step = Callable[[Bench], Awaitable[None]]
Made = Callable[[Bench], FromSink]


def newer(b: Bench) -> SignedHead:
    """A head that this home has signed and its etcd does not have."""
    assert b.home.own.state is not None
    return resealed(b.home.own.state, seq=99)


def twin(b: Bench) -> SignedHead:
    assert b.home.own.state is not None
    return resealed(b.home.own.state, agent="another")


def foreign(b: Bench) -> SignedHead:
    assert b.home.own.state is not None
    return resealed(b.home.own.state, key_of(7), seq=99)


def want(bucket: int) -> FromSink:
    return FromSink(want=Want(bucket=bucket))


def ack(pair: tuple[int, int]) -> FromSink:
    return FromSink(ack=Ack(epoch=pair[0], seq=pair[1]))


SAID: dict[str, Made] = {
    "Hello: our head": lambda b: hello(b.head.signed),
    "Hello: a head within the ring": lambda b: hello(b.first.signed),
    "Hello: a head before the ring": lambda b: hello(b.first.signed),
    "Hello: no head": lambda b: hello(None),
    "Hello: our head, and `diff`": lambda b: hello(b.head.signed, diff=True),
    "Hello: a newer head, not signed by us": lambda b: hello(foreign(b)),
    "Hello: a newer head, signed by us, that our etcd does not have": lambda b: hello(newer(b)),
    "Hello: our pair, another hash, signed by us": lambda b: hello(twin(b)),
    "Hello: before our catalog is open": lambda b: hello(None),
    "Hello: of another zone than the certificate's": lambda b: hello(None, zone=7),
    "Hello: no protocol that we speak": lambda b: hello(None, protocol_min=2, protocol_max=2),
    "Want: a bucket": lambda b: want(bucket_index("market/100")),
    "Want: a bucket that does not exist": lambda b: want(256),
    "Ack: the Diff's head": lambda b: ack(b.head.pair),
    "Ack: another head": lambda b: ack((1, 1)),
    "anything else: a message that we do not know": lambda b: FromSink(),
}


async def newer_than_our_view(b: Bench) -> None:
    """Another agent of the zone has committed, and our watch is late."""
    assert isinstance(b.home.store, FaultyStore)
    b.home.store.lag.watch = SOON / 2
    async with Zone(0, b.home.store) as another:
        await another.create("of another agent")
        assert another.own.state is not None
        assert another.own.pair > b.head.pair
        await b.say(hello(another.own.state.head.signed))
        assert another.own.pair == b.head.pair


async def newer_and_etcd_is_down(b: Bench) -> None:
    assert isinstance(b.home.store, FaultyStore)
    b.home.store.down = True
    await b.say(hello(newer(b)))


async def newer_and_etcd_is_full(b: Bench) -> None:
    def full(txn: Txn, moment: Moment) -> None:
        raise NoSpace("etcd is full")

    b.home.store.fault = full
    await b.say(hello(newer(b)))


async def newer_and_the_answer_is_lost(b: Bench) -> None:
    assert isinstance(b.home.store, FaultyStore)
    b.home.store.losing = ["after"]
    await b.say(hello(newer(b)))


async def many_wants(b: Bench) -> None:
    for n in range(20):
        b.follower._outgoing.put_nowait(want(n))  # all at once
    await settle(SOON)


async def commit(b: Bench) -> None:
    await b.home.create("new")
    await settle(SOON)


async def more_commits_than_the_ring_holds(b: Bench) -> None:
    b.reading.clear()
    for n in range(60):
        await b.home.create(f"new {n}")
    b.reading.set()
    await settle(SOON)


async def new_epoch(b: Bench) -> None:
    await b.home.writer.begin_epoch([])
    b.epoch = b.head.pair[0]  # asked for, not found out
    await settle(SOON)


async def listed_again(b: Bench) -> None:
    b.home.own.doubt()
    await settle(SOON)
    assert b.home.ring.holds(b.first)


async def listed_again_later(b: Bench) -> None:
    """History was compacted before our watch came to it."""
    b.home._running[0].cancel()
    async with Zone(0, b.home.store) as another:
        await another.create("one")
        await another.create("two")
    b.home._running[0] = asyncio.create_task(b.home.own.follow(b.home.store))
    await settle(SOON)


async def quiet(b: Bench) -> None:
    await settle(2.2)


async def not_a_word(b: Bench) -> None:
    await settle(63)


async def hang_up(b: Bench) -> None:
    b.follower.close()
    await settle(SOON)


async def take_nothing(b: Bench) -> None:
    b.reading.clear()
    await settle(200)


HAPPENS: dict[str, Step] = {
    "Hello: a newer head, that our etcd has and our view has not": newer_than_our_view,
    "Hello: a newer head, signed by us, and our etcd does not answer": newer_and_etcd_is_down,
    "Hello: a newer head, signed by us, and our etcd is full": newer_and_etcd_is_full,
    "Hello: a newer head, signed by us, and the answer of our etcd is lost": newer_and_the_answer_is_lost,
    "Want: more than 16 before the first is taken": many_wants,
    "our catalog: a commit": commit,
    "our catalog: more commits than the ring holds, while the follower does not read": more_commits_than_the_ring_holds,
    "our catalog: a new epoch": new_epoch,
    "our catalog: listed again, at the same head": listed_again,
    "our catalog: listed again, at a later head": listed_again_later,
    "the stream: nothing to say for 2 s": quiet,
    "the stream: not a word of the follower for 60 s": not_a_word,
    "the stream: the follower takes nothing for 60 s": take_nothing,
    "the stream: it breaks": hang_up,
}


def say(make: Made) -> Step:
    return lambda b: b.say(make(b))


EVENTS: dict[str, Step] = {**{event: say(make) for event, make in SAID.items()}, **HAPPENS}
SMALL_RING = {
    "Hello: a head before the ring": 0,
    "our catalog: more commits than the ring holds, while the follower does not read": 2000,
}


# -- the tests


def outcome(b: Bench, state: str) -> set[str]:
    """Say in the words of the document what the source did."""
    seen = set()
    for message in b.heard:
        kind = (message.WhichOneof("message") or "nothing").capitalize()
        seen.add(f"Refuse {message.refuse.code}" if kind == "Refuse" else kind)
    refused = any(message.HasField("refuse") for message in b.heard)
    assert not refused or b.serving.done()
    if b.serving.done() and not refused:
        seen.add("end")
    elif b.state != state and not refused:
        seen.add(f"→ {b.state}")
    if b.head.pair[0] > b.epoch:
        seen.add("epoch")
    return seen or {"ignore"}


async def check(cell: Cell) -> None:
    opened = cell.event != "Hello: before our catalog is open"
    async with bench(ring_bytes=SMALL_RING.get(cell.event, 1 << 20), open_=opened) as b:
        if cell.outcome == {"— d"}:  # a stream is greeted only when the catalog is open, which it stays
            await b.say(hello(None))
            assert b.state == "NEW"
            return
        await lead(b, cell.state)
        b.heard.clear()
        await EVENTS[cell.event](b)
        arrow = next((token for token in cell.outcome if token.startswith("→")), None)
        if arrow is not None:
            assert b.state == arrow.removeprefix("→ ")
        assert outcome(b, cell.state) - {arrow} == cell.outcome - {arrow}


SOURCE = cells(STATES)


@pytest.mark.parametrize("cell", SOURCE, ids=str)
def test_a_home_does_what_the_document_says(cell: Cell) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(check(cell))


def test_the_document_has_every_event_of_these_tests() -> None:
    assert {cell.event for cell in SOURCE} == EVENTS.keys()


def test_the_document_explains_every_word_of_its_cells_and_no_other() -> None:
    assert set().union(*(cell.outcome for cell in SOURCE)) == words("Every event in every state: the home")
