"""The home of tests.bench.fanout, in a process of its own: an agent's etcd, catalogs and peer port, no more.

It is told what to do by lines of JSON on stdin, and answers each with one on stdout.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, cast

from federation.link.ring import Ring
from federation.link.serve import ServeSettings
from federation.trust.keys import PublicKey
from federation.trust.tls import Identity
from tests.bench.hand import Hand
from tests.support.rss import rss_mib
from zone_agent.config import Config, load
from zone_agent.core import Core, open_core
from zone_agent.faces.peer import PeerFace
from zone_agent.peers import Peers, PeerTimeouts
from zone_agent.services.changes import ChangeService
from zone_agent.services.locate import Locator
from zone_agent.stores import Stores
from zone_agent.transfer.signing import UrlSigner

CLIENTS = 200

Answer = dict[str, Any]


@asynccontextmanager
async def serving(config: Config) -> AsyncGenerator[Core, None]:
    """Open the federation of a zone, and its port for peers, as `zone_agent.agent` does."""
    async with open_core(config) as core:
        identity = Identity(config.zone.id, core.key, {peer.id: PublicKey.parse(peer.key) for peer in config.peers})
        peers = Peers(identity, {}, PeerTimeouts(5.0, 5.0, 6.0))
        signer = UrlSigner(b"bench" * 8, time.time)
        locator = Locator(
            core.catalogs.view, Stores(config.zone.id, config.layout), peers, signer, lambda: "", lifetime=3600
        )
        view = core.catalogs.view
        nobody_asks = cast("ChangeService", None)
        face = PeerFace(
            identity, view.own, core.ring, view.replicas, locator, nobody_asks, core.restorer.show, ServeSettings()
        )
        async with face.serve(config.peer):
            yield core


class Home:
    """What the home does when it is told to."""

    def __init__(self, core: Core) -> None:
        self._own = core.catalogs.view.own
        self._ring = core.ring
        self._hand = Hand(self._own, core.catalogs.federation)
        self._records = 0

    async def fill(self, records: int) -> Answer:
        """Make apps."""
        self._records = records
        await self._hand.make(records)
        return self._state()

    async def load(self, changes: int) -> Answer:
        """Change apps, by many clients at once, and tell how fast that went."""
        before, begun = self._own.pair, time.monotonic()
        numbers = iter(range(changes))

        async def client() -> None:
            for number in numbers:
                await self._hand.change(number % self._records)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        seconds = time.monotonic() - begun
        return self._state() | {"seconds": seconds, "commits": self._own.pair[1] - before[1]}

    async def pace(self, changes: int, seconds: float) -> Answer:
        """Change one app after the other, so long apart, and tell when each commit was known here."""
        times: dict[int, float] = {}
        for number in range(changes):
            committed = await self._hand.change(number % self._records)
            times[committed.pair[1]] = time.monotonic()
            await asyncio.sleep(seconds)
        return self._state() | {"times": times}

    def _state(self) -> Answer:
        return {"rss_mib": rss_mib(), "ring_mib": ring_bytes(self._ring) / 2**20, "root": self._hand.root}


def ring_bytes(ring: Ring) -> int:
    """Return what the messages in a ring come to."""
    if ring.state is None:
        return 0
    epoch, seq = ring.state.head.pair
    size = 0
    for back in count(1):
        entry = ring.after((epoch, seq - back))
        if entry is None:
            return size
        size += entry.size
    return size


async def run(directory: Path) -> None:
    async with serving(load(directory / "zone.toml")) as core:
        home = Home(core)
        duties: dict[str, Callable[..., Awaitable[Answer]]] = {"fill": home.fill, "load": home.load, "pace": home.pace}
        print(json.dumps({}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            duty, *arguments = json.loads(line)
            print(json.dumps(await duties[duty](*arguments)), flush=True)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
