"""One home and 20 followers, one of them dead and one slow: what they cost the home, and each other.

    python -m tests.bench.fanout [--records N] [--changes N] [--json]

The home runs in a process of its own, with a real etcd. The followers dial it by gRPC and mutual TLS from this process,
which they share; their stores are in memory. The dead one has said Hello and never reads. The slow one reads 10
messages a second while the home is under load.

First the followers copy the home. Then lags are taken, of single commits, 20 a second: from the moment in which the
home knows a commit to that in which readers of a healthy follower see it. At last the home commits as fast as it can:
with no follower, with one, with all. 18 followers that verify what they hear would need more than the one core that
they have here; under load they take all and store nothing, which is the same to the home. The slow one goes on to
store, and must have what the home has in the end.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from federation.catalog import Catalog, Publication
from federation.commit import CatalogState
from federation.head import read_unverified
from federation.keys import Keyspace
from federation.link.direct import Direct, DirectSettings
from federation.link.follow import Follower, FollowSettings
from federation.link.link import Link, LinkSettings
from federation.link.sink import Sink
from federation.memory import MemoryStore
from federation.pulse import Pulse
from federation.trust.keys import PublicKey
from federation.trust.tls import Identity
from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead
from fedmarket.pb.fedmarket.v1.peer_pb2 import FromSource
from tests.support.federation import key_of
from tests.support.zones import Zone, free_port, yard
from zone_agent.peers import Peers, PeerStream, PeerTimeouts

FOLLOWERS = 20
PACED, PACE_SECONDS = 200, 0.05
SLOW_SECONDS = 0.1
BOUND = 1200.0
HOME = 0

Figures = dict[str, float]


class Home:
    """The process of tests.bench.source."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def does(self, *order: str | float) -> dict[str, Any]:
        """Have the home do something, and return what it tells of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "the home has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def home_of(zone: Zone) -> AsyncGenerator[Home, None]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "tests.bench.source", zone.directory),
        stdin=pipe,
        stdout=pipe,
        limit=1 << 24,
    )
    try:
        home = Home(process)
        await home.answer()
        yield home
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def _witness(_: SignedHead) -> None:
    """Find nothing in what the home holds of us, as we have no catalog of our own."""


@dataclass
class Peer:
    """A zone that follows the home."""

    id: int
    home: PublicKey
    peers: Peers
    pause: float = 0.0
    """Before each message is read."""
    diffs: int = 0
    """How often the home began a DIFF."""
    seen: dict[int, float] = field(default_factory=dict)
    """Seq to when our readers saw it."""

    def __post_init__(self) -> None:
        self._keyspace, self._store = Keyspace("/fedmarket/1/", self.id), MemoryStore()
        self.replica = Catalog(HOME, self._keyspace.replica(HOME), self.home, own=False)
        self.replica.listen(self._note)
        self.took = Pulse()

    async def run(self) -> None:
        """Follow the home as an agent does."""
        common = (self._keyspace, HOME, self.home, self._store, self.replica)
        direct = Direct(*common, DirectSettings())
        link = Link(Follower(*common, _witness, FollowSettings()), direct, self._dial, LinkSettings())
        async with asyncio.TaskGroup() as tasks:
            for work in (self.replica.follow(self._store), direct.run(), link.run()):
                tasks.create_task(work)

    async def take(self, state: CatalogState, *, reads: bool = True) -> None:
        """Follow the home from `state` on and store nothing; or, being dead, read nothing either."""
        self.taken = state.head
        async with self.peers.follow(HOME) as stream:
            await stream.send(Sink(self.id, HOME, self.home, state.head, state.tree).hello())
            while reads:
                message = await stream.receive()
                if message.HasField("commit"):
                    self.taken = read_unverified(message.commit.head) or state.head
                    self.took.fire()
            await asyncio.Event().wait()

    async def has_taken(self, told: Mapping[str, Any]) -> None:
        """Wait until `take` was told of the records that the home told of."""
        async with asyncio.timeout(BOUND):
            while self.taken.head.root.hex() != told["root"]:
                await self.took.wait()

    async def has(self, told: Mapping[str, Any]) -> None:
        """Wait until our readers see the records that the home told of."""
        async with asyncio.timeout(BOUND):
            while self.replica.state is None or self.state.tree.root.hex() != told["root"]:
                await self.replica.pulse.wait()

    @property
    def state(self) -> CatalogState:
        assert self.replica.state is not None
        return self.replica.state

    def _note(self, publication: Publication) -> None:
        self.seen[publication.state.head.pair[1]] = time.monotonic()

    @asynccontextmanager
    async def _dial(self) -> AsyncGenerator["Slowed", None]:
        async with self.peers.follow(HOME) as stream:
            yield Slowed(stream, self)


class Slowed:
    """A stream that is read no faster than its peer likes."""

    def __init__(self, stream: PeerStream, peer: Peer) -> None:
        self._stream, self._peer = stream, peer
        self.send = stream.send

    async def receive(self) -> FromSource:
        await asyncio.sleep(self._peer.pause)
        message = await self._stream.receive()
        self._peer.diffs += message.HasField("diff")
        return message


@asynccontextmanager
async def doing(works: Sequence[Coroutine[Any, Any, None]]) -> AsyncGenerator[None, None]:
    """Do all this while the context is open."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(work) for work in works]
        yield
        for task in running:
            task.cancel()


async def lags(home: Home, healthy: Sequence[Peer], slow: Peer, dead: Peer) -> Figures:
    """Time single commits from the home to 18 followers, while one of the others is dead and one is slow."""
    async with doing([peer.run() for peer in (*healthy, slow)]):
        told = await home.does("load", 1)
        for peer in (*healthy, slow):
            await peer.has(told)
        slow.pause = SLOW_SECONDS
        async with doing([dead.take(slow.state, reads=False)]):
            told = await home.does("pace", PACED, PACE_SECONDS)
            for peer in healthy:
                await peer.has(told)
    times = {int(seq): at for seq, at in told["times"].items()}
    measured = sorted((peer.seen[seq] - at) * 1000 for peer in healthy for seq, at in times.items() if seq in peer.seen)
    return {"lag_ms_p50": measured[len(measured) // 2], "lag_ms_p99": measured[len(measured) * 99 // 100]}


async def loaded(home: Home, changes: int, followers: int, healthy: Sequence[Peer] = ()) -> Figures:
    """Have the home commit as fast as it can, until its healthy followers have taken all."""
    begun = time.monotonic()
    told = await home.does("load", changes)
    for peer in healthy:
        await peer.has_taken(told)
    return {
        f"changes_per_s_{followers}": changes / told["seconds"],
        f"commits_per_s_{followers}": told["commits"] / told["seconds"],
        f"taken_per_s_{followers}": changes / (time.monotonic() - begun),
        f"ring_mib_{followers}": told["ring_mib"],
        f"home_rss_mib_{followers}": told["rss_mib"],
    }


async def under_load(home: Home, changes: int, healthy: Sequence[Peer], slow: Peer, dead: Peer) -> Figures:
    """Load the home with none, one and all of its followers, and see that the slow one comes to the same end."""
    figures = await loaded(home, changes, 0)
    slow.pause = 0.0
    async with doing([slow.run()]):
        await slow.has(await home.does("load", 1))
        state = slow.state
    async with doing([healthy[0].take(state)]):
        figures |= await loaded(home, changes, 1, healthy[:1])
    async with doing([slow.run()]):
        await slow.has(await home.does("load", 1))
        slow.pause, slow.diffs, state = SLOW_SECONDS, 0, slow.state
        async with doing([*(peer.take(state) for peer in healthy), dead.take(state, reads=False)]):
            figures |= await loaded(home, changes, FOLLOWERS, healthy)
        begun = time.monotonic()
        await slow.has(await home.does("load", 1))
        return figures | {"slow_equal_after_s": time.monotonic() - begun, "slow_diffs": slow.diffs}


async def bench(records: int, changes: int) -> Figures:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name, yard(Path(name)) as zones:
        zone = zones.make(HOME, "berlin")
        ids = range(1, FOLLOWERS + 1)
        for follower in ids:
            zone.follow(follower, free_port(), str(key_of(follower).public))
        key, timeouts = PublicKey.parse(zone.key), PeerTimeouts(5.0, 5.0, 6.0)
        async with AsyncExitStack() as stack:
            home = await stack.enter_async_context(home_of(zone))
            followers = []
            for follower in ids:
                identity = Identity(follower, key_of(follower), {HOME: key})
                peers = Peers(identity, {HOME: f"127.0.0.1:{zone.peer}"}, timeouts)
                stack.push_async_callback(peers.close)
                followers.append(Peer(follower, key, peers))
            slow, dead, *healthy = followers
            figures: Figures = {"records": records, "load_before": os.getloadavg()[0]}
            told = await home.does("fill", records)
            figures["home_rss_mib_idle"] = told["rss_mib"]
            figures |= await lags(home, healthy, slow, dead)
            figures |= await under_load(home, changes, healthy, slow, dead)
            return figures | {"load_after": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=150_000, help="made in each of the three loads")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # whoever is cancelled at the end is no news
    result = asyncio.run(bench(arguments.records, arguments.changes))
    figures = {name: round(value, 3) for name, value in result.items()}
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<28} {value:>12,.10g}")


if __name__ == "__main__":
    main()
