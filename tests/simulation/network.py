"""The network between simulated agents: who reaches whom, how fast, and what was sent."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from federation.link.serve import ServeSettings, serve
from federation.link.source import Source
from federation.link.stream import StreamBroken
from fedmarket.pb.fedmarket.v1.head_pb2 import Head, SignedHead
from fedmarket.pb.fedmarket.v1.peer_pb2 import FromSink, FromSource
from tests.support.federation import End

if TYPE_CHECKING:
    from tests.simulation.agent import Agent

WIRE_SECONDS = 0.001
WINDOW = 4
"""Messages that a wire holds in each direction."""

Lie = Literal["head", "record", "omission"]


@dataclass(eq=False)
class Wire:
    """An open stream: who follows whom, and its two ends."""

    follower: "Agent"
    home: "Agent"
    ends: tuple["SlowEnd", "SlowEnd"]
    slowness: int
    """How much longer than others it takes, so that two followers are not always at the same commit."""

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
        self.wire: Wire | None = None
        self.hanging = False

    async def send(self, message: object) -> None:
        assert self.wire is not None
        await asyncio.sleep(self._network.latency * self.wire.slowness)
        await super().send(self._network.carry(self.wire, message))

    async def receive(self) -> object:
        message = await super().receive()
        if self.hanging:
            await self.cut.wait()
            raise StreamBroken("cut")
        return message


@dataclass
class Network:
    """Which agents run, who can reach whom, and what they say."""

    agents: "list[Agent]" = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)
    unreachable: set[tuple[int, int]] = field(default_factory=set)
    """(follower's zone, home)."""
    latency: float = WIRE_SECONDS
    """Seconds that it takes to send a message."""
    dials: int = 0
    sent: list[tuple[Wire, FromSink | FromSource]] = field(default_factory=list)
    """What was said, in order, before anybody falsified it."""
    lie: Lie | None = None
    """How the next message of a home that can be falsified so will be."""
    lied_to: set[tuple[int, int]] = field(default_factory=set)
    """(follower's zone, home)."""

    def heal(self) -> None:
        """Let everybody reach everybody, as fast as ever."""
        self.unreachable.clear()
        self.latency = WIRE_SECONDS

    def of(self, zone: int) -> "list[Agent]":
        """Return the agents of a zone that run."""
        return [agent for agent in self.agents if agent.zone == zone]

    @asynccontextmanager
    async def dial(self, follower: "Agent", home: int, settings: ServeSettings) -> AsyncGenerator[End[Any, Any], None]:
        """Open a stream to an agent of a zone that runs, to another one each time. Raises StreamBroken."""
        running = self.of(home)
        if (follower.zone, home) in self.unreachable or not running:
            raise StreamBroken("not reachable")
        self.dials += 1
        agent = running[self.dials % len(running)]
        there: asyncio.Queue[object] = asyncio.Queue(WINDOW)
        back: asyncio.Queue[object] = asyncio.Queue(WINDOW)
        mine, its = SlowEnd(self, there, back), SlowEnd(self, back, there)
        mine.wire = its.wire = wire = Wire(follower, agent, (mine, its), 1 + 5 * (self.dials % 2))
        source = Source(agent.ring, follower.zone, lambda: agent.newest_of(follower.zone))
        self.wires.append(wire)
        serving = asyncio.create_task(serve(source, its, agent.own.pulse, agent.witness, settings))  # type: ignore[arg-type] # an End is a Stream of whatever is sent on it
        try:
            yield mine
        finally:
            self.wires.remove(wire)
            wire.cut()
            await serving

    def cut(self, follower: int, home: int) -> None:
        """Break the streams of one direction and let none be opened."""
        self.unreachable.add((follower, home))
        for wire in list(self.wires):
            if (wire.follower.zone, wire.home.zone) == (follower, home):
                wire.cut()

    def interrupt(self, home: int) -> None:
        """Break the streams of those who follow a zone; they dial again."""
        for wire in list(self.wires):
            if wire.home.zone == home:
                wire.cut()

    def drop(self, agent: "Agent") -> None:
        """Break every stream of an agent that is killed."""
        self.agents.remove(agent)
        for wire in list(self.wires):
            if agent in (wire.follower, wire.home):
                wire.cut()

    def carry(self, wire: Wire, message: object) -> object:
        """Note a message that is sent, and falsify it if that is due."""
        assert isinstance(message, FromSink | FromSource)
        self.sent.append((wire, message))
        if self.lie is None or not isinstance(message, FromSource):
            return message
        falsified = falsify(message, self.lie)
        if falsified == message:
            return message
        self.lie = None
        self.lied_to.add((wire.follower.zone, wire.home.zone))
        return falsified


def falsify(message: FromSource, lie: Lie) -> FromSource:
    """Return what a home says that does not hold to what it signed; the same where the lie has no place in it."""
    changed = FromSource.FromString(message.SerializeToString())
    kind = changed.WhichOneof("message")
    if kind in {"commit", "diff"} and lie == "head":
        _falsify_head(changed.commit.head if kind == "commit" else changed.diff.head)
    elif kind in {"commit", "bucket"}:
        part = changed.commit if kind == "commit" else changed.bucket
        if part.puts and lie == "record":
            part.puts[0].value += b"\0"
        elif part.puts and lie == "omission":
            del part.puts[0]
    return changed


def _falsify_head(head: SignedHead) -> None:
    body = Head.FromString(head.body)
    body.time_ms += 1
    head.body = body.SerializeToString()
