"""Zones as the model test has them: agents are killed, stores answer late or not at all, streams break."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from federation.link.link import Link
from federation.link.serve import ServeSettings, serve
from federation.link.source import Source
from federation.link.stream import StreamBroken
from federation.memory import MemoryStore, Moment
from federation.store import Change, KeyValue, Revision, Snapshot, StoreUnavailable, Txn, TxnResult
from fedmarket.errors import FedmarketError
from fedmarket.retry import Backoff
from tests.support.federation import End, Zone

BACKOFF = Backoff(first_seconds=0.05, longest_seconds=1.0)
SERVE = ServeSettings(beat_seconds=0.5, diff_idle_seconds=1.5)


WIRE_SECONDS = 0.001
BEAT_SECONDS = 1.5


@dataclass
class Lag:
    """How long a store takes, in virtual seconds."""

    request: float = 0.0003
    answer: float = 0.0003
    watch: float = 0.0004


class FaultyStore(MemoryStore):
    """A store in memory that can be slow, be down, and lose its answers."""

    def __init__(self, zone: int, journal: list[tuple[int, Revision]]) -> None:
        super().__init__(self._fail)
        self._zone = zone
        self._journal = journal
        """Every revision of every zone's store, in the order in which they came to be."""
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
        await asyncio.sleep(self.lag.request)
        result = await super().txn(txn)
        await asyncio.sleep(self.lag.answer)
        return result

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
            self._journal.append((self._zone, self._history[-1]))


@dataclass(eq=False)
class Wire:
    """An open stream: who follows whom, and its two ends."""

    follower: "Agent"
    home: "Agent"
    ends: "tuple[SlowEnd, SlowEnd]"

    def cut(self) -> None:
        """Break the stream; what is on its way is lost."""
        for end in self.ends:
            end.close()

    def hang(self) -> None:
        """Deliver nothing any more, without a word."""
        for end in self.ends:
            end.hanging = True


class SlowEnd(End[Any, Any]):
    """An end of a stream that takes its time, and may stop to deliver."""

    def __init__(
        self, network: "Network", outgoing: "asyncio.Queue[object]", incoming: "asyncio.Queue[object]"
    ) -> None:
        super().__init__(outgoing, incoming)
        self._network = network
        self.hanging = False

    async def send(self, message: object) -> None:
        await asyncio.sleep(self._network.latency)
        await super().send(message)

    async def receive(self) -> object:
        message = await super().receive()
        if self.hanging:
            await self.cut.wait()
            raise StreamBroken("cut")
        return message


class Agent(Zone):
    """One agent of a zone, from its start until it is killed."""

    def __init__(self, network: "Network", zone: int, store: MemoryStore, ring_bytes: int) -> None:
        super().__init__(zone, store, ring_bytes=ring_bytes)
        self.network = network
        self.ready = asyncio.Event()

    async def live(self, peers: Iterable[Zone]) -> None:
        """Run for ever."""
        async with self:
            for peer in peers:
                self.follow(peer)
            self.ready.set()
            await self._beat()

    async def _beat(self) -> None:
        """Commit something from time to time, as an agent does, whatever becomes of it."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            with suppress(FedmarketError):
                await self.writer.beat()

    def follow(self, home: Zone) -> Link:
        """Follow another zone, dialling as patiently as an agent does."""
        link = super().follow(home)
        link._backoff = BACKOFF
        return link

    @asynccontextmanager
    async def dial(self, home: Zone) -> AsyncGenerator[End[Any, Any], None]:
        """Open a stream to an agent of the other zone that runs."""
        agent = self.network.reach(self.zone, home.zone)
        there: asyncio.Queue[object] = asyncio.Queue(4)
        back: asyncio.Queue[object] = asyncio.Queue(4)
        mine, its = SlowEnd(self.network, there, back), SlowEnd(self.network, back, there)
        source = Source(agent.ring, self.zone, lambda: None)
        wire = Wire(self, agent, (mine, its))
        self.network.wires.append(wire)
        serving = asyncio.create_task(
            serve(source, its, agent.own.pulse, lambda pair: agent.own.wait_for(pair, 0.2), SERVE)  # type: ignore[arg-type]
        )
        try:
            yield mine
        finally:
            self.network.wires.remove(wire)
            wire.cut()
            await serving


@dataclass
class Network:
    """Which agents run and who can reach whom."""

    agents: list[Agent] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)
    unreachable: set[tuple[int, int]] = field(default_factory=set)
    """(follower's zone, home)."""
    latency: float = WIRE_SECONDS
    """Seconds that it takes to send a message."""
    dials: int = 0

    def heal(self) -> None:
        """Let everybody reach everybody, as fast as ever."""
        self.unreachable.clear()
        self.latency = WIRE_SECONDS

    def of(self, zone: int) -> list[Agent]:
        """Return the agents of a zone that run."""
        return [agent for agent in self.agents if agent.zone == zone]

    def reach(self, follower: int, home: int) -> Agent:
        """Return an agent to be dialled, another one each time. Raises StreamBroken."""
        running = self.of(home)
        if (follower, home) in self.unreachable or not running:
            raise StreamBroken("not reachable")
        self.dials += 1
        return running[self.dials % len(running)]

    def cut(self, follower: int, home: int) -> None:
        """Break the streams of one direction and let none be opened."""
        self.unreachable.add((follower, home))
        for wire in list(self.wires):
            if (wire.follower.zone, wire.home.zone) == (follower, home):
                wire.cut()

    def drop(self, agent: Agent) -> None:
        """Break every stream of an agent that is killed."""
        self.agents.remove(agent)
        for wire in list(self.wires):
            if agent in (wire.follower, wire.home):
                wire.cut()
