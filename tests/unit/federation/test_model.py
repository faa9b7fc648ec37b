"""Two zones that follow each other, under everything that can happen to them, held against what was committed.

Source, sink, catalogs, writers and links are the real ones. Time is virtual, a message and a store take some of it, and
a step lets a little pass, so that the next event comes in the middle of whatever is going on. FEDMARKET_EXAMPLES says
how many runs are tried.
"""

import asyncio
import os
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from federation.draft import Draft
from federation.link.link import STICKY
from federation.link.sink import State
from federation.memory import Moment
from federation.store import Revision
from federation.writer import Committed
from fedmarket.errors import FedmarketError, NotFound, OutcomeUnknown
from fedmarket.pb.fedmarket.v1.record_pb2 import MarketRecord
from tests.support.federation import Zone
from tests.support.model import Agent, FaultyStore, Lag, Network
from tests.support.oracle import Oracle, name_of
from tests.support.virtual_time import VirtualTimeLoop

ZONES = (0, 100)
SETTLE_SECONDS = 30.0
KINDS = ("create", "rename", "delete")

T = TypeVar("T")
zones = st.sampled_from(ZONES)
pauses = st.sampled_from([0.0, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.008, 0.013, 0.03])
picks = st.integers(0, 1000)
lags = st.sampled_from([0.0, 0.0005, 0.05, 2.0])


@dataclass
class Change:
    """A change that somebody asked for."""

    agent: Agent
    kind: str
    key: str
    """The record it is about; of a create, empty until it is done."""
    name: str
    task: asyncio.Task[Committed[int]]


class TwoZones(RuleBasedStateMachine):
    """Berlin (0) and Tokyo (100)."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.journal: list[tuple[int, Revision]] = []
        self.stores = {zone: FaultyStore(zone, self.journal) for zone in ZONES}
        self.oracle = Oracle(ZONES)
        self.network = Network()
        self.lives: dict[Agent, asyncio.Task[None]] = {}
        self.changes: list[Change] = []
        self.refused: list[Change] = []
        self.shown: dict[tuple[Agent, int], tuple[int, int]] = {}
        self.rings = dict.fromkeys(ZONES, 0)
        self.names = count()
        self.holds = False

    # -- what happens

    @initialize(
        rings=st.tuples(*[st.sampled_from([0, 600, 1500, 1 << 20, 1 << 20])] * 2),
        population=st.sampled_from([0, 3, 40]),
        pause=pauses,
    )
    def begin(self, rings: tuple[int, int], population: int, pause: float) -> None:
        self.rings = dict(zip(ZONES, rings, strict=True))
        for zone in ZONES:
            self._start(zone)
            self._ask(zone, ["create"] * population, 0)
        self._seconds(pause)

    @rule(zone=zones, kind=st.sampled_from(KINDS), pick=picks, pause=pauses)
    def change(self, zone: int, kind: str, pick: int, pause: float) -> None:
        self._ask(zone, [kind], pick)
        self._seconds(pause)

    @rule(zone=zones, kinds=st.lists(st.sampled_from(KINDS), min_size=2, max_size=10), pick=picks, pause=pauses)
    def burst(self, zone: int, kinds: list[str], pick: int, pause: float) -> None:
        self._ask(zone, kinds, pick)
        self._seconds(pause)

    @rule(
        home=zones,
        steps=st.lists(st.tuples(st.sampled_from(KINDS), pauses), min_size=2, max_size=8),
        pick=picks,
        slow_wire=st.booleans(),
        slow_follower=st.booleans(),
    )
    def one_commit_after_the_other(
        self, home: int, steps: list[tuple[str, float]], pick: int, slow_wire: bool, slow_follower: bool
    ) -> None:
        """Perhaps faster than they can be sent, or stored."""
        if slow_wire:
            self.network.latency = 0.02
        if slow_follower:
            self.stores[_other(home)].lag = Lag(0.03, 0.03, 0.03)
        for kind, pause in steps:
            self._ask(home, [kind], pick)
            self._seconds(pause)

    @rule(pause=pauses)
    def a_moment_passes(self, pause: float) -> None:
        self._seconds(pause)

    @rule(seconds=st.sampled_from([0.1, 3.0, 12.0]))
    def time_passes(self, seconds: float) -> None:
        self._seconds(seconds)

    @rule(follower=zones, home=zones, pause=pauses)
    def cut(self, follower: int, home: int, pause: float) -> None:
        """One direction, or all of a zone where both are the same."""
        for here, there in [(follower, home)] if follower != home else self._directions():
            self.network.cut(here, there)
        self._seconds(pause)

    @rule(pause=pauses)
    def heal(self, pause: float) -> None:
        self.network.heal()
        self._seconds(pause)

    @precondition(lambda self: self.network.wires)
    @rule(pick=picks, hang=st.booleans(), pause=pauses)
    def one_stream_breaks(self, pick: int, hang: bool, pause: float) -> None:
        wire = self.network.wires[pick % len(self.network.wires)]
        if hang:
            wire.hang()
        else:
            wire.cut()
        self._seconds(pause)

    @rule(zone=zones, downtime=st.sampled_from([0.0, 0.5]), pause=pauses)
    def restart(self, zone: int, downtime: float, pause: float) -> None:
        """Kill an agent and start one: the ring is empty, the store is what it was."""
        self._kill(self.network.of(zone)[0])
        self._seconds(downtime)
        self._start(zone)
        self._seconds(pause)

    @rule(home=zones, kinds=st.lists(st.sampled_from(KINDS), min_size=2, max_size=10), pick=picks, pause=pauses)
    def restart_inside_a_diff(self, home: int, kinds: list[str], pick: int, pause: float) -> None:
        follower = _other(home)
        self.network.cut(follower, home)
        self._ask(home, kinds, pick)
        self._seconds(0.1)
        self._kill(self.network.of(home)[0])
        self._start(home)
        self.network.unreachable.clear()
        self._until(lambda: any(a.links[home].status.state is State.DIFF for a in self.network.of(follower)), 0.5)
        self._seconds(pause)
        self._kill(self.network.of(follower)[0])
        self._start(follower)

    @rule(zone=zones, pause=pauses)
    def a_second_agent_comes_or_goes(self, zone: int, pause: float) -> None:
        if len(self.network.of(zone)) == 1:
            self._start(zone)
        else:
            self._kill(self.network.of(zone)[1])
        self._seconds(pause)

    @rule(zone=zones, keep=st.integers(0, 5), behind=st.booleans(), pick=picks, pause=pauses)
    def compact(self, zone: int, keep: int, behind: bool, pick: int, pause: float) -> None:
        """Forget history, perhaps while changes are made that the watch has not delivered."""
        self.stores[zone].lag = Lag(answer=0.003, watch=0.05) if behind else Lag()
        self._ask(zone, KINDS, pick)
        self._seconds(pause)
        self.stores[zone].compact(self.stores[zone].revision - keep)
        for _ in range(8 if behind else 0):
            self._ask(zone, ["rename"], pick)
            self._seconds(0.008)

    @rule(zone=zones, moments=st.lists(st.sampled_from(["before", "after"]), min_size=1, max_size=3), pause=pauses)
    def answers_get_lost(self, zone: int, moments: list[Moment], pause: float) -> None:
        self.stores[zone].losing = moments
        self._seconds(pause)

    @rule(zone=zones, seconds=st.sampled_from([0.1, 3.0, 8.0]))
    def the_store_is_down(self, zone: int, seconds: float) -> None:
        self.stores[zone].down = True
        self._seconds(seconds)
        self.stores[zone].down = False

    @rule(zone=zones, request=lags, answer=lags, watch=lags, pause=pauses)
    def the_store_is_slow(self, zone: int, request: float, answer: float, watch: float, pause: float) -> None:
        self.stores[zone].lag = Lag(request, answer, watch)
        self._seconds(pause)

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.02, 0.2]), pause=pauses)
    def the_wire_is_slow(self, seconds: float, pause: float) -> None:
        self.network.latency = seconds
        self._seconds(pause)

    @rule()
    def settle(self) -> None:
        """All is well again: within a bound every zone holds what the other has (I11)."""
        self.network.heal()
        for store in self.stores.values():
            store.heal()
        self._seconds(0.1)  # a stream that was just cut is noticed
        self._until(lambda: all(change.task.done() for change in self.changes), SETTLE_SECONDS)
        self._until(lambda: not self._out_of_step(), SETTLE_SECONDS)
        self._look()
        assert not self.changes, "a change was never answered"
        assert not self._out_of_step()

    def _out_of_step(self) -> list[str]:
        """Say what is not yet as it is at home: in the stores, and for the readers of each agent."""
        self._read_journal()
        lagging: list[str] = []
        for (me, home), replica in self.oracle.replicas.items():
            there = self.oracle.homes[home]
            if replica.raw_head != there.raw_head:
                lagging.append(f"{me} stores {replica.pair} of {home}, which is at {there.pair}")
            for agent in self.network.of(me):
                seen, link = agent.replicas[home], agent.links[home].status
                if seen.pair != there.pair or seen.syncing or link.state is not State.TAIL:
                    lagging.append(f"an agent of {me} shows {seen.pair} of {home}, {link.state} ({link.last_error})")
        return lagging

    # -- what must hold, always

    @invariant()
    def what_was_promised_holds(self) -> None:
        self._look()
        self.holds = True

    def _look(self) -> None:
        self._read_journal()
        for agent, life in self.lives.items():
            assert not life.done(), f"an agent of zone {agent.zone} died: {life.exception()!r}"
            self._check_readers(agent)
            for link in agent.links.values():
                assert link.status.state not in STICKY, f"nobody lied, but: {link.status.last_error}"
        self._check_answers()

    def _read_journal(self) -> None:
        for zone, revision in self.journal:
            self.oracle.see(zone, revision)
        self.journal.clear()

    def _check_readers(self, agent: Agent) -> None:
        """I7: what a reader sees of a home is a state that it committed, and never goes back."""
        for catalog in (agent.own, *agent.replicas.values()):
            shown = dict(catalog.tree.items())
            assert catalog.index.ids("market") == sorted(int(key.split("/")[1]) for key in shown)
            assert not catalog.fault
            if catalog.state is None:
                assert catalog.syncing or not shown, "I7: a mix is shown that is not marked"
                continue
            home = self.oracle.homes[catalog.home]
            assert catalog.state.head.encode() == home.heads[catalog.pair], "I7: a head was never committed"
            assert shown == home.states[catalog.pair], "I7: what is shown is not what was committed"
            assert catalog.pair >= self.shown.get((agent, catalog.home), (0, 0)), "I7: a reader went back"
            self.shown[agent, catalog.home] = catalog.pair

    def _check_answers(self) -> None:
        """I9: done is done, refused is never applied."""
        asked = list(self.changes)
        for change in [change for change in asked if change.task.done()]:
            self.changes.remove(change)
            error = change.task.exception()
            if error is None:
                self._check_done(change, change.task.result(), asked)
            else:
                assert isinstance(error, FedmarketError), repr(error)
                if not isinstance(error, OutcomeUnknown):
                    self.refused.append(change)
        for change in self.refused:
            home = self.oracle.homes[change.agent.zone]
            assert change.name not in home.ids_by_name, f"I9: {change.name} was refused and is committed"

    def _check_done(self, change: Change, committed: Committed[int], asked: list[Change]) -> None:
        """A commit that is shared shows only the last change of a record."""
        home, key = self.oracle.homes[change.agent.zone], f"market/{committed.value}"
        assert committed.pair in home.states, "I9: a change is done in a commit that is not there"
        value = home.states[committed.pair].get(key)
        shared = [change, *(other for other in asked if other.key == key)]
        if value is None:
            assert any(other.kind == "delete" for other in shared), "I9: a change is done and its record is not there"
        else:
            assert name_of(value) in {other.name for other in shared}, "I9: a change is done and not there"
        if change.agent in self.lives:
            assert change.agent.own.pair >= committed.pair, "what was written is not read"

    # -- the zones

    def _start(self, zone: int) -> None:
        self.stores[zone].losing = []
        agent = Agent(self.network, zone, self.stores[zone], self.rings[zone])
        life = self.loop.create_task(agent.live([Zone(home) for home in ZONES if home != zone]))
        self._until(lambda: agent.ready.is_set() or life.done(), 20)
        assert not life.done(), f"an agent of zone {zone} did not start: {life.exception()!r}"
        self.network.agents.append(agent)
        self.lives[agent] = life

    def _kill(self, agent: Agent) -> None:
        life = self.lives.pop(agent)
        self.network.drop(agent)
        life.cancel()
        self._run(asyncio.wait([life]))
        assert life.cancelled(), f"an agent of zone {agent.zone} did not stop as it should: {life.exception()!r}"

    def _ask(self, zone: int, kinds: Sequence[str], pick: int) -> None:
        agents = self.network.of(zone)
        for position, kind in enumerate(kinds):
            agent, keys = agents[(pick + position) % len(agents)], sorted(self.oracle.homes[zone].records)
            key = keys[(pick + 7 * position) % len(keys)] if keys and kind != "create" else ""
            if kind == "create" or key:
                self.changes.append(self._submit(agent, kind, key, f"n{next(self.names)}"))

    def _submit(self, agent: Agent, kind: str, key: str, name: str) -> Change:
        def change(draft: Draft) -> int:
            if kind == "create":
                return draft.create(MarketRecord(name=name))
            record_id = int(key.split("/")[1])
            record = draft.get(MarketRecord, record_id)
            if record is None:
                raise NotFound(f"there is no {key}")
            if kind == "rename":
                record.message.name = name
                draft.put(record_id, record)
            else:
                draft.delete(MarketRecord, record_id)
            return record_id

        return Change(agent, kind, key, name, self.loop.create_task(agent.writer.commit(change)))

    def _directions(self) -> Iterator[tuple[int, int]]:
        return ((me, home) for me in ZONES for home in ZONES if me != home)

    # -- time

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        self.holds = False
        return self.loop.run_until_complete(work)

    def _seconds(self, seconds: float) -> None:
        self._run(asyncio.sleep(seconds))

    def _until(self, condition: "Any", seconds: float) -> None:
        """Let time pass until the condition holds, at most so long."""

        async def wait() -> None:
            until = self.loop.time() + seconds
            while not condition() and self.loop.time() < until:
                await asyncio.sleep(0.003)

        self._run(wait())

    def teardown(self) -> None:
        """Every run ends well, unless it has failed already; and nothing is left behind."""
        try:
            if self.holds:
                self.settle()
                for agent in list(self.lives):
                    self._kill(agent)
                assert not asyncio.all_tasks(self.loop), "something goes on after all agents have stopped"
        finally:
            left = asyncio.all_tasks(self.loop) | {change.task for change in self.changes}
            for task in left:
                task.cancel()
            self.loop.run_until_complete(_ended(left))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


def _other(zone: int) -> int:
    return ZONES[1 - ZONES.index(zone)]


async def _ended(tasks: "set[asyncio.Task[Any]]") -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


TestTwoZones = TwoZones.TestCase
TestTwoZones.settings = settings(
    max_examples=int(os.environ.get("FEDMARKET_EXAMPLES", "60")),
    stateful_step_count=30,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
pytestmark = pytest.mark.timeout(3600)  # hypothesis takes some minutes to make a failure small
