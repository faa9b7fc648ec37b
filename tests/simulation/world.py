"""The zones that the model test plays with: their stores, agents and network, and the time that passes for them."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar
from unittest.mock import patch

from federation.draft import Draft
from federation.memory import Backup
from federation.store import Revision
from federation.writer import Committed
from fedmarket.errors import ConfigError, NotFound
from fedmarket.pb.fedmarket.v1.record_pb2 import Envelope, MarketRecord
from tests.simulation.agent import Agent, Marks
from tests.simulation.network import Network
from tests.simulation.traffic import Traffic
from tests.support.model import FaultyStore
from tests.support.oracle import Oracle, Site, strange_field
from tests.support.virtual_time import VirtualTimeLoop

ZONES = (0, 100)
KINDS = ("create", "rename", "delete", "create-strange", "delete-strange")
STRANGE_KIND = "gadget"
"""A kind of record that only a newer version knows."""
STARTS = 5
"""How often an agent is started that another one's opening of the store has kept from it."""

T = TypeVar("T")
Wall = Callable[[], float]


@dataclass
class Change:
    """A change that somebody asked for."""

    agent: Agent
    kind: str
    key: str
    """The record it is about; of a create, empty until it is done."""
    name: str
    task: asyncio.Task[Committed[str]]


@dataclass
class Saved:
    """A backup of a zone: of its store, of its high-water file, and what the oracle knew then."""

    store: Backup
    marks: Marks
    site: Site


def steady(loop: asyncio.AbstractEventLoop) -> Wall:
    """Return a wall clock that goes as the loop's does, and that no one reads twice in the same millisecond."""
    reads = count()
    return lambda: 1_700_000_000 + loop.time() + next(reads) / 1000


def wild(_: asyncio.AbstractEventLoop) -> Wall:
    """Return a wall clock that leaps from year to year, forward and back (within what takes a head the same bytes)."""
    years = random.Random(12)
    return lambda: years.uniform(4e7, 4e9)


class World:
    """Berlin (0) and Tokyo (100)."""

    def __init__(self, wall: Callable[[asyncio.AbstractEventLoop], Wall] = steady) -> None:
        self.loop = VirtualTimeLoop()
        self.wall = wall(self.loop)
        self.journal: list[tuple[str, Revision]] = []
        self.trace: list[tuple[object, ...]] = []
        """All that the stores were told, and when: the same where the same happens."""
        self.stores = {zone: FaultyStore(zone, self.journal) for zone in ZONES}
        self.marks = {zone: Marks() for zone in ZONES}
        self.backups: dict[int, Saved] = {}
        self.oracle = Oracle(ZONES)
        for zone in ZONES:
            self.oracle.add(str(zone), zone)
        self.network = Network()
        self.traffic = Traffic(self.oracle.homes)
        self.lives: dict[Agent, asyncio.Task[None]] = {}
        self.changes: list[Change] = []
        self.rings = dict.fromkeys(ZONES, 0)
        self.names = count()

    # -- agents

    def start(self, zone: int, store: FaultyStore | None = None, marks: Marks | None = None) -> Agent:
        """Start an agent of a zone, on its store and high-water file or on a clone's."""
        store, marks = store or self.stores[zone], marks or self.marks[zone]
        store.losing = []
        for _ in range(STARTS):
            agent = Agent(f"agent-{next(self.names)}", store, marks, self.network, self.rings, self.wall)
            life = self.loop.create_task(agent.live())
            self.until(lambda agent=agent, life=life: agent.ready.is_set() or life.done(), 20)  # type: ignore[misc] # bound to this round
            if agent.ready.is_set():
                self.network.agents.append(agent)
                self.lives[agent] = life
                return agent
            assert life.done(), f"I12: an agent of zone {zone} is not ready in time"
            assert isinstance(life.exception(), ConfigError), f"an agent of zone {zone} died: {life.exception()!r}"
        raise AssertionError(f"an agent of zone {zone} does not start: {life.exception()!r}")

    def kill(self, agent: Agent, *, arrives: bool = True) -> None:
        """End an agent wherever it is; what it has sent to its store arrives, or is lost with it."""
        life = self.lives.pop(agent)
        self.network.drop(agent)
        if not arrives:
            agent.connection.lose()
        life.cancel()
        self.run(asyncio.wait([life]))
        assert life.cancelled(), f"an agent of zone {agent.zone} did not stop as it should: {life.exception()!r}"

    # -- changes

    def ask(self, zone: int, kinds: Sequence[str], pick: int) -> None:
        """Ask the agents of a zone for changes of whatever records there are."""
        agents = self.network.of(zone)
        for position, kind in enumerate(kinds):
            agent = agents[(pick + position) % len(agents)]
            strange = STRANGE_KIND if kind.endswith("strange") else "market"
            records = self.oracle.sites[agent.store.name].line.records
            keys = sorted(key for key in records if key.startswith(strange))
            wanted = kind not in {"create", "create-strange", "trespass"}
            if keys or not wanted:
                key = keys[(pick + 7 * position) % len(keys)] if wanted else ""
                self.changes.append(self._submit(agent, kind, key, f"n{next(self.names)}"))

    def _submit(self, agent: Agent, kind: str, key: str, name: str) -> Change:
        def change(draft: Draft) -> str:
            match kind:
                case "create":
                    return f"market/{draft.create(_newer(name))}"
                case "create-strange":
                    return _create_strange(draft, agent.zone, name)
                case "delete-strange":
                    draft._new[key] = None
                case "trespass":
                    draft._new[f"market/{other(agent.zone) * 1_000_000 + 100}"] = _record(name)
                case _:
                    _change_market(draft, kind, key, name)
            return key

        return Change(agent, kind, key, name, self.loop.create_task(agent.writer.commit(change)))

    # -- time

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Let time pass until the work is done."""
        with patch("time.time", self.wall):
            return self.loop.run_until_complete(work)

    def seconds(self, seconds: float) -> None:
        """Let time pass."""
        self.run(asyncio.sleep(seconds))

    def turns(self, turns: int) -> None:
        """Let so many rounds of callbacks run, in no time."""

        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.run(turn())

    def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Let time pass until the condition holds, at most so long."""

        async def wait() -> None:
            until = self.loop.time() + seconds
            while not condition() and self.loop.time() < until:
                await asyncio.sleep(0.003)

        self.run(wait())

    # -- the end

    def close(self) -> None:
        """Leave nothing behind."""
        left = asyncio.all_tasks(self.loop) | {change.task for change in self.changes}
        for task in left:
            task.cancel()
        self.loop.run_until_complete(_ended(left))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


def other(zone: int) -> int:
    """Return the other zone."""
    return ZONES[1 - ZONES.index(zone)]


def directions() -> Iterator[tuple[int, int]]:
    """Yield (follower, home) of each link."""
    return ((me, home) for me in ZONES for home in ZONES if me != home)


def _newer(name: str) -> MarketRecord:
    """Return a market with a field that this version does not know."""
    return MarketRecord.FromString(MarketRecord(name=name).SerializeToString() + strange_field(name))


def _record(name: str) -> bytes:
    """Return such a market as it is stored."""
    uid = name.encode().ljust(16)
    return Envelope(uid=uid, min_reader=1, payload=_newer(name).SerializeToString()).SerializeToString()


def _create_strange(draft: Draft, zone: int, name: str) -> str:
    """Create what an agent of a newer version would create."""
    n = draft._new_next.get(STRANGE_KIND, 100)
    draft._new_next[STRANGE_KIND] = n + 1
    key = f"{STRANGE_KIND}/{zone * 1_000_000 + n}"
    draft._new[key] = _record(name)
    return key


def _change_market(draft: Draft, kind: str, key: str, name: str) -> None:
    record_id = int(key.split("/")[1])
    record = draft.get(MarketRecord, record_id)
    if record is None:
        raise NotFound(f"there is no {key}")
    if kind == "delete":
        draft.delete(MarketRecord, record_id)
    else:
        record.message.name = name
        draft.put(record_id, record)


async def _ended(tasks: "set[asyncio.Task[Any]]") -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
