"""One agent of a simulated zone: the real parts, put together as zone_agent does, over a connection and a network."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from federation.catalog import Catalog
from federation.commit import Origin
from federation.head import FEDERATION, CatalogId, Head, Pair
from federation.highwater import Mark
from federation.keys import Keyspace
from federation.link.direct import Direct, DirectSettings
from federation.link.follow import Follower, FollowSettings
from federation.link.link import Link, LinkSettings
from federation.link.ring import Ring
from federation.link.serve import ServeSettings
from federation.opening import open_catalog
from federation.restore import Restorer
from federation.writer import Writer, WriterSettings
from fedmarket.errors import FedmarketError
from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead
from fedmarket.retry import Backoff
from tests.simulation.network import Network
from tests.support.federation import key_of
from tests.support.model import Connection, FaultyStore

PREFIX = "/fedmarket/1/"
BACKOFF = Backoff(first_seconds=0.05, longest_seconds=1.0)
SERVE = ServeSettings(beat_seconds=0.5, diff_idle_seconds=1.5)
LINK = LinkSettings(backoff=BACKOFF)
FOLLOW = FollowSettings(silence_seconds=2.0, catch_up_seconds=5.0, backoff=BACKOFF)
WRITER = WriterSettings(
    catch_up_seconds=5.0, resolve_seconds=5.0, backoff=Backoff(first_seconds=0.01, longest_seconds=0.01)
)
WITNESS_SECONDS = 0.2
BEAT_SECONDS = 1.5
OPEN_SECONDS = 5.0


class Marks:
    """A zone's high-water file that is written at once; its interface is that of federation.highwater.HighWater."""

    def __init__(self, mark: Mark | None = None) -> None:
        self._mark = mark

    @property
    def pair(self) -> Pair:
        """How far the zone is known to have come."""
        return self._mark.pair if self._mark else (0, 0)

    def mark(self, catalog: CatalogId) -> Mark | None:
        """Return the mark; None if there never was a commit."""
        return self._mark

    def note(self, head: Head) -> None:
        """Remember a head whose commit is known."""
        if head.pair > self.pair:
            self._mark = Mark(head.epoch, head.seq, dict(head.next_ids))

    def copy(self) -> "Marks":
        """Return what a backup of the file holds."""
        return Marks(self._mark)


class Agent:
    """One agent of a zone, from its start until it is killed."""

    def __init__(
        self,
        name: str,
        store: FaultyStore,
        marks: Marks,
        network: Network,
        homes: Mapping[int, int],
        wall: Callable[[], float],
    ) -> None:
        """Be an agent of the zone of `store` that follows the others; ``homes` gives each one's ring size."""
        zone, key = store.zone, key_of(store.zone)
        self.zone = zone
        self.name = name
        self.store = store
        self.connection = Connection(store)
        self.blind = False
        """Whether it does not look at what peers hold of its zone, as no agent of ours would do."""
        self.ready = asyncio.Event()
        self._wall = wall
        self._marks = marks
        keyspace = Keyspace(PREFIX, zone)
        self.own = Catalog(zone, keyspace.own, key.public, own=True)
        self.ring = Ring(homes[zone])
        self.own.listen(self.ring.publish)
        self.own.listen(lambda publication: marks.note(publication.state.head.head))
        self._origin = Origin(zone, FEDERATION, keyspace.own, key, name)
        self.writer = Writer(self.connection, self.own, self._origin, WRITER, wall)
        self.restorer = Restorer(self.connection, self.own, self.writer, [], key.public, WITNESS_SECONDS)
        self.replicas: dict[int, Catalog] = {}
        self.direct: dict[int, Direct] = {}
        self.links: dict[int, Link] = {}
        for home in homes.keys() - {zone}:
            pinned = key_of(home).public
            replica = self.replicas[home] = Catalog(home, keyspace.replica(home), pinned, own=False)
            follower = Follower(keyspace, home, pinned, self.connection, replica, self.witness, FOLLOW)
            direct = Direct(keyspace, home, pinned, self.connection, replica, DirectSettings())
            self.direct[home] = direct
            self.links[home] = Link(follower, direct, partial(network.dial, self, home, SERVE), LINK, wall)

    async def live(self) -> None:
        """Run for ever."""
        await open_catalog(self.connection, self._origin, self._marks, int(self._wall() * 1000))  # type: ignore[arg-type] # Marks has what is used
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.own.follow(self.connection))
            tasks.create_task(self.writer.run())
            await self.own.wait_for((1, 1), OPEN_SECONDS)
            for home, link in self.links.items():
                tasks.create_task(self.replicas[home].follow(self.connection))
                tasks.create_task(self.direct[home].run())
                tasks.create_task(link.run())
            self.ready.set()
            await self._beat()

    async def _beat(self) -> None:
        """Commit something from time to time, as an agent does, whatever becomes of it."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            with suppress(FedmarketError):
                await self.writer.beat()

    async def witness(self, signed: SignedHead) -> None:
        """Judge a head of this zone that a peer holds."""
        if not self.blind:
            await self.restorer.show(signed)

    def newest_of(self, zone: int) -> SignedHead | None:
        """Return the newest head of another zone that is held here."""
        state = self.replicas[zone].state
        return state.head.signed if state is not None else None
