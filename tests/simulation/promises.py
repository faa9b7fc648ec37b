"""What must hold at any moment, in the stores, for readers, for whoever asked for a change, and on the wires."""

from federation.catalog import Catalog
from federation.head import Pair
from federation.link.link import STICKY
from federation.link.sink import State
from fedmarket.errors import FedmarketError, OutcomeUnknown
from tests.simulation.agent import Agent
from tests.simulation.world import Change, World
from tests.support.oracle import name_of


class Promises:
    """Looks at a world, again and again."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._refused: list[Change] = []
        self._shown: dict[tuple[Agent, int], tuple[Pair, bytes]] = {}
        self.torn: set[int] = set()
        """Zones of which there are two, so that their agents may refuse to write."""

    def check(self) -> None:
        """Check everything that has happened since the last look. Raises AssertionError that names the invariant."""
        world = self._world
        self._read_journal()
        for wire, message in world.network.sent:
            world.traffic.check(wire, message)
        world.network.sent.clear()
        for agent, life in world.lives.items():
            assert not life.done(), f"an agent of zone {agent.zone} died: {life.exception()!r}"
            for catalog in (agent.own, *agent.replicas.values()):
                self._check_readers(agent, catalog)
            for home in agent.links:
                self._check_link(agent, home)
        self._check_answers()

    def out_of_step(self) -> list[str]:
        """Say what is not yet as it is at home: in the stores, and for the readers of each agent."""
        self._read_journal()
        lagging: list[str] = []
        for agent in self._world.lives:
            site = self._world.oracle.sites[agent.store.name]
            for home, link in agent.links.items():
                there = self._world.oracle.sites[str(home)].line
                stored = site.replicas[home]
                if stored.raw_head != there.raw_head:
                    lagging.append(f"{agent.zone} stores {stored.pair} of {home}, which is at {there.pair}")
                seen, status = agent.replicas[home], link.status
                if seen.pair != there.pair or seen.syncing or status.state is not State.TAIL:
                    shown = f"{seen.pair}, {status.state} ({status.last_error})"
                    lagging.append(f"an agent of {agent.zone} shows {home} at {shown}, which is at {there.pair}")
        return lagging

    def _read_journal(self) -> None:
        world = self._world
        for store, revision in world.journal:
            world.oracle.see(store, revision)
            keys = sorted(change.key for change in revision.changes)
            world.trace.append((store, revision.revision, *keys))
        world.journal.clear()

    def _check_readers(self, agent: Agent, catalog: Catalog) -> None:
        """I7: what a reader sees of a home is a state that it committed, and never goes back."""
        shown = dict(catalog.tree.items())
        markets = sorted(int(key.split("/")[1]) for key in shown if key.startswith("market/"))
        assert catalog.index.ids("market") == markets, "I7: lists show other records than there are"
        assert catalog.home in self.torn or not (catalog.fault or catalog.barred), catalog.fault or catalog.barred
        if catalog.state is None:
            assert catalog.syncing or not shown, "I7: a mix is shown that is not marked"
            return
        home, raw = self._world.oracle.homes[catalog.home], catalog.state.head.encode()
        assert raw in home.states, "I7: a head is shown that was never committed"
        assert shown == home.states[raw], "I7: what is shown is not what was committed"
        before = self._shown.get((agent, catalog.home), ((0, 0), raw))
        assert catalog.pair > before[0] or raw == before[1], "I7: a reader went back"
        self._shown[agent, catalog.home] = catalog.pair, raw

    def _check_link(self, agent: Agent, home: int) -> None:
        """I4: a link is FORKED only where two heads were signed as one; REFUSED only where somebody lied."""
        status = agent.links[home].status
        allowed = {
            State.FORKED: self._world.oracle.homes[home].forked,
            State.REFUSED: (agent.zone, home) in self._world.network.lied_to,
        }
        assert status.state not in STICKY or allowed[status.state], f"I4: nobody lied, but: {status.last_error}"

    def _check_answers(self) -> None:
        """I9: done is done, refused is never applied."""
        asked = list(self._world.changes)
        for change in [change for change in asked if change.task.done()]:
            self._world.changes.remove(change)
            error = change.task.exception()
            if error is None:
                assert change.kind != "trespass", "I1: a record was written into another zone's range"
                self._check_done(change, asked)
            else:
                assert isinstance(error, FedmarketError), repr(error)
                if not isinstance(error, OutcomeUnknown):
                    self._refused.append(change)
        for change in self._refused:
            home = self._world.oracle.homes[change.agent.zone]
            assert change.name not in home.ids_by_name, f"I9: {change.name} was refused and is committed"

    def _check_done(self, change: Change, asked: list[Change]) -> None:
        """A commit that is shared shows only the last change of a record."""
        home, committed = self._world.oracle.homes[change.agent.zone], change.task.result()
        key = committed.value
        assert committed.pair in home.heads, "I9: a change is done in a commit that is not there"
        shared = [change, *(one for one in asked if one.key == key)]
        left = {one.name for one in shared if not one.kind.startswith("delete")}
        if any(one.kind.startswith("delete") for one in shared):
            left.add("")
        values = [home.states[raw].get(key) for raw in home.heads[committed.pair]]
        assert left & {name_of(value) if value else "" for value in values}, "I9: a change is done and not there"
        if change.agent in self._world.lives:
            kept = home.heads[committed.pair] & self._world.oracle.sites[change.agent.store.name].line.past
            seen = change.agent.own.pair >= committed.pair
            assert seen or not kept, "I7: what was written, and not lost since with its store, is not read"
