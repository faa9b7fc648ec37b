"""What can happen to zones that follow each other: the rules of the model test.

A message and a store take some time, and a step lets only a little pass, so that the next event comes in the middle of
whatever is going on.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from federation.link.link import STICKY
from federation.link.sink import State
from federation.memory import Moment
from fedmarket.errors import FedmarketError
from tests.simulation.agent import Agent
from tests.simulation.network import Lie
from tests.simulation.promises import Promises
from tests.simulation.world import KINDS, ZONES, Saved, Wall, World, directions, other, steady, wild
from tests.support.model import FaultyStore, Lag

SETTLE_SECONDS = 30.0
TELLS = 5
CRASH_TURNS = 40
"""More rounds of callbacks than anything takes without time."""

P = ParamSpec("P")
zones = st.sampled_from(ZONES)
kinds = st.sampled_from(KINDS)
several = st.lists(kinds, min_size=2, max_size=10)
pauses = st.sampled_from([0.0, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.008, 0.013, 0.03])
picks = st.integers(0, 1000)
lags = st.sampled_from([0.0, 0.0005, 0.05, 2.0])


def step(function: "Callable[Concatenate[Zones, P], None]") -> "Callable[Concatenate[Zones, P], None]":
    """Note what is played, so that it can be played again."""

    @wraps(function)
    def play(self: "Zones", /, *args: P.args, **kwargs: P.kwargs) -> None:
        self.holds = False
        self.played.append((function.__name__, dict(kwargs)))
        function(self, *args, **kwargs)

    return play


class Zones(RuleBasedStateMachine):
    """Berlin (0) and Tokyo (100)."""

    def __init__(self, wall: Callable[[asyncio.AbstractEventLoop], Wall] = steady) -> None:
        super().__init__()
        self.world = World(wall)
        self.promises = Promises(self.world)
        self.played: list[tuple[str, dict[str, Any]]] = []
        self.chance = random.getstate()
        """What the waits between attempts are drawn from."""
        self.twice = False
        self.holds = False
        self.clones = 0

    # -- everyday life

    @initialize(
        rings=st.tuples(*[st.sampled_from([0, 600, 1500, 1 << 20, 1 << 20])] * 2),
        population=st.sampled_from([0, 3, 40]),
        twice=st.sampled_from([True, *[False] * 7]),
        pause=pauses,
    )
    @step
    def begin(self, rings: tuple[int, int], population: int, twice: bool, pause: float) -> None:
        self.twice = twice
        self.world.rings = dict(zip(ZONES, rings, strict=True))
        for zone in ZONES:
            self.world.start(zone)
            self.world.ask(zone, ["create"] * population + ["create-strange"], 0)
        # Ids of a kind that this version does not know are the newer version's care, also after a restore.
        self.world.until(lambda: all(change.task.done() for change in self.world.changes), 1)
        self.world.seconds(pause)

    @rule(zone=zones, kind=kinds, pick=picks, pause=pauses)
    @step
    def change(self, zone: int, kind: str, pick: int, pause: float) -> None:
        self.world.ask(zone, [kind], pick)
        self.world.seconds(pause)

    @rule(zone=zones, kinds=several, pick=picks, pause=pauses)
    @step
    def burst(self, zone: int, kinds: list[str], pick: int, pause: float) -> None:
        self.world.ask(zone, kinds, pick)
        self.world.seconds(pause)

    @rule(
        home=zones,
        steps=st.lists(st.tuples(kinds, pauses), min_size=2, max_size=8),
        pick=picks,
        slow_wire=st.booleans(),
        slow_follower=st.booleans(),
    )
    @step
    def one_commit_after_the_other(
        self, home: int, steps: list[tuple[str, float]], pick: int, slow_wire: bool, slow_follower: bool
    ) -> None:
        """Perhaps faster than they can be sent, or stored."""
        if slow_wire:
            self.world.network.latency = 0.02
        if slow_follower:
            self.world.stores[other(home)].lag = Lag(0.03, 0.03, 0.03)
        for kind, pause in steps:
            self.world.ask(home, [kind], pick)
            self.world.seconds(pause)

    @rule(zone=zones, pause=pauses)
    @step
    def trespass(self, zone: int, pause: float) -> None:
        """Ask for a record in the other zone's range, as faulty code above the commit builder would."""
        self.world.ask(zone, ["trespass"], 0)
        self.world.seconds(pause)

    @rule(pause=pauses)
    @step
    def a_moment_passes(self, pause: float) -> None:
        self.world.seconds(pause)

    @rule(seconds=st.sampled_from([0.1, 3.0, 12.0]))
    @step
    def time_passes(self, seconds: float) -> None:
        self.world.seconds(seconds)

    # -- the network

    @rule(follower=zones, home=zones, pause=pauses)
    @step
    def cut(self, follower: int, home: int, pause: float) -> None:
        """One direction, or all of a zone where both are the same."""
        for here, there in [(follower, home)] if follower != home else directions():
            self.world.network.cut(here, there)
        self.world.seconds(pause)

    @rule(pause=pauses)
    @step
    def heal(self, pause: float) -> None:
        self.world.network.heal()
        self.world.seconds(pause)

    @precondition(lambda self: self.world.network.wires)
    @rule(pick=picks, hang=st.booleans(), pause=pauses)
    @step
    def one_stream_breaks(self, pick: int, hang: bool, pause: float) -> None:
        wires = self.world.network.wires
        wire = wires[pick % len(wires)]
        if hang:
            wire.hang()
        else:
            wire.cut()
        self.world.seconds(pause)

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.02, 0.2]), pause=pauses)
    @step
    def the_wire_is_slow(self, seconds: float, pause: float) -> None:
        self.world.network.latency = seconds
        self.world.seconds(pause)

    @rule(lie=st.sampled_from(["head", "record", "omission"]), zone=zones, pause=pauses)
    @step
    def a_home_lies(self, lie: Lie, zone: int, pause: float) -> None:
        """What it says next does not hold to what it has signed."""
        self.world.network.lie = lie
        self.world.ask(zone, ["create"], 0)
        self.world.seconds(pause)

    # -- agents

    @rule(zone=zones, downtime=st.sampled_from([0.0, 0.5]), pause=pauses)
    @step
    def restart(self, zone: int, downtime: float, pause: float) -> None:
        """Kill an agent and start one: the ring is empty, the store is what it was."""
        self.world.kill(self.world.network.of(zone)[0])
        self.world.seconds(downtime)
        self.world.start(zone)
        self.world.seconds(pause)

    @rule(
        zone=zones,
        kinds=several,
        pick=picks,
        after=st.integers(0, 60),
        turns=st.integers(0, CRASH_TURNS),
        arrives=st.booleans(),
    )
    @step
    def crash(self, zone: int, kinds: list[str], pick: int, after: int, turns: int, arrives: bool) -> None:
        """Kill an agent at any await, perhaps while what it has sent to its store is still on its way."""
        self.world.ask(zone, kinds, pick)
        self.world.seconds(after / 10_000)
        self.world.turns(turns)
        agents = self.world.network.of(zone)
        self.world.kill(agents[pick % len(agents)], arrives=arrives)
        self.world.start(zone)

    @rule(home=zones, kinds=several, pick=picks, pause=pauses)
    @step
    def restart_inside_a_diff(self, home: int, kinds: list[str], pick: int, pause: float) -> None:
        world, follower = self.world, other(home)
        world.network.cut(follower, home)
        world.ask(home, kinds, pick)
        world.seconds(0.1)
        world.kill(world.network.of(home)[0])
        world.start(home)
        world.network.unreachable.clear()
        world.until(lambda: any(a.links[home].status.state is State.DIFF for a in world.network.of(follower)), 0.5)
        world.seconds(pause)
        world.kill(world.network.of(follower)[0])
        world.start(follower)

    @rule(zone=zones, pause=pauses)
    @step
    def a_second_agent_comes_or_goes(self, zone: int, pause: float) -> None:
        if len(self.world.network.of(zone)) == 1:
            self.world.start(zone)
        else:
            self.world.kill(self.world.network.of(zone)[1])
        self.world.seconds(pause)

    # -- stores

    @rule(zone=zones, keep=st.integers(0, 5), behind=st.booleans(), pick=picks, pause=pauses)
    @step
    def compact(self, zone: int, keep: int, behind: bool, pick: int, pause: float) -> None:
        """Forget history, perhaps while changes are made that the watch has not delivered."""
        store = self.world.stores[zone]
        store.lag = Lag(answer=0.003, watch=0.05) if behind else Lag()
        self.world.ask(zone, ["create", "rename", "delete"], pick)
        self.world.seconds(pause)
        store.compact(store.revision - keep)
        for _ in range(8 if behind else 0):
            self.world.ask(zone, ["rename"], pick)
            self.world.seconds(0.008)

    @rule(zone=zones, moments=st.lists(st.sampled_from(["before", "after"]), min_size=1, max_size=3), pause=pauses)
    @step
    def answers_get_lost(self, zone: int, moments: list[Moment], pause: float) -> None:
        self.world.stores[zone].losing = list(moments)
        self.world.seconds(pause)

    @rule(zone=zones, seconds=st.sampled_from([0.1, 3.0, 8.0]))
    @step
    def the_store_is_down(self, zone: int, seconds: float) -> None:
        self.world.stores[zone].down = True
        self.world.seconds(seconds)
        self.world.stores[zone].down = False

    @rule(zone=zones, request=lags, answer=lags, watch=lags, pause=pauses)
    @step
    def the_store_is_slow(self, zone: int, request: float, answer: float, watch: float, pause: float) -> None:
        self.world.stores[zone].lag = Lag(request, answer, watch)
        self.world.seconds(pause)

    # -- loss and return

    @rule(zone=zones)
    @step
    def back_up(self, zone: int) -> None:
        self.promises.check()
        world = self.world
        site = world.oracle.sites[str(zone)].copy()
        world.backups[zone] = Saved(world.stores[zone].backup(), world.marks[zone].copy(), site)

    @precondition(lambda self: self.world.backups)
    @rule(pick=picks, running=st.booleans(), mark=st.booleans(), kinds=several, alone=st.booleans(), pause=pauses)
    @step
    def put_back(self, pick: int, running: bool, mark: bool, kinds: list[str], alone: bool, pause: float) -> None:
        """Put a store back, under running agents or with their high-water file; as many new writes follow as can be."""
        world = self.world
        zone = sorted(world.backups)[pick % len(world.backups)]
        if alone:
            world.network.cut(zone, other(zone))
            world.network.cut(other(zone), zone)
        agents = [] if running else world.network.of(zone)
        for agent in agents:
            world.kill(agent)
        self.promises.check()
        if agents and not mark:
            world.marks[zone] = world.backups[zone].marks.copy()
        # An agent that has not seen yet what is lost goes on as if nothing were.
        reached = min((agent.own.pair for agent in world.network.of(zone)), default=world.marks[zone].pair)
        world.stores[zone].restore(world.backups[zone].store)
        world.oracle.put_back(str(zone), world.backups[zone].site, reached)
        if agents:
            world.start(zone)
        world.ask(zone, kinds, pick)
        world.seconds(pause)

    @rule(zone=zones, kinds=several, pick=picks, blind=st.booleans(), seconds=st.sampled_from([0.0, 0.005, 3.0, 6.0]))
    @step
    def clone(self, zone: int, kinds: list[str], pick: int, blind: bool, seconds: float) -> None:
        """Let there be two of a zone, until a person ends one of them and starts the other in a new epoch."""
        world = self.world
        self.promises.check()
        self.clones += 1
        name = f"{zone}, clone {self.clones}"
        store = FaultyStore(zone, world.journal, name)
        store.restore(world.stores[zone].backup())
        world.oracle.clone(str(zone), name)
        self.promises.torn.add(zone)
        twin = world.start(zone, store, world.marks[zone].copy())
        twin.blind = blind
        for _ in range(2):
            world.network.interrupt(zone)
            world.ask(zone, kinds, pick)
            world.seconds(seconds / 2)
        self.promises.check()
        world.kill(twin, arrives=False)
        for agent in world.network.of(zone):
            world.kill(agent)
        self.promises.check()
        world.oracle.remove(name, str(zone))
        self._tell(world.start(zone))
        self._retry()
        self.promises.torn.discard(zone)

    # -- what must hold

    @invariant()
    def what_was_promised_holds(self) -> None:
        self.promises.check()
        self.holds = True

    @rule()
    @step
    def settle(self) -> None:
        """All is well again: within a bound every zone holds what the other has (I11)."""
        world = self.world
        world.network.heal()
        world.network.lie = None
        for store in world.stores.values():
            store.heal()
        world.seconds(0.1)  # a stream that was just cut is noticed
        self._retry()
        world.until(lambda: all(change.task.done() for change in world.changes), SETTLE_SECONDS)
        world.until(lambda: not self._out_of_step(), SETTLE_SECONDS)
        self.promises.check()
        assert not world.changes, "I9, I12: a change was never answered"
        assert not self.promises.out_of_step(), "I11: " + "; ".join(self.promises.out_of_step())
        world.network.lied_to.clear()

    def _out_of_step(self) -> bool:
        self._retry()
        return bool(self.promises.out_of_step())

    def _tell(self, agent: Agent) -> None:
        """Tell an agent to begin an epoch, as often as it takes, as a person does."""
        for _ in range(TELLS):
            with suppress(FedmarketError):
                return self.world.run(agent.writer.begin_epoch([]))
        raise AssertionError("I12: an epoch that a person wants does not begin")

    def _retry(self) -> None:
        """Do what a person does about alarms."""
        for agent in self.world.lives:
            for link in agent.links.values():
                if link.status.state in STICKY:
                    link.retry()

    def teardown(self) -> None:
        """Every run ends well, unless it has failed already; and nothing is left behind."""
        try:
            if self.holds:
                self.end()
                if self.twice:
                    self._play_again()
        finally:
            self.world.close()

    def end(self) -> None:
        """Settle, and stop everything."""
        self.settle()
        for agent in list(self.world.lives):
            self.world.kill(agent)
        self.world.seconds(5.0)  # what was on its way has arrived
        assert not asyncio.all_tasks(self.world.loop), "something goes on after all agents have stopped"

    def _play_again(self) -> None:
        """I12: under another wall clock exactly the same happens."""
        again, chance = Zones(wild), random.getstate()
        random.setstate(self.chance)
        try:
            for name, arguments in self.played[:-1]:
                getattr(again, name)(**arguments)
                again.promises.check()
            again.end()
        except AssertionError as error:
            raise AssertionError(f"I12: with another wall clock: {error}") from error
        finally:
            again.world.close()
            random.setstate(chance)
        for before, after in zip(self.world.trace, again.world.trace, strict=False):
            assert before == after, f"I12: with another wall clock {after} happened instead of {before}"
        assert len(again.world.trace) == len(self.world.trace), "I12: with another wall clock more or less happened"
