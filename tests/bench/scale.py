"""What a catalog of many records costs: first copy, catching up, bytes on the wire, memory, start.

    python -m tests.bench.scale [--records N] [--json]

Two whole agents, each with its etcd. The home has N apps, and so has the follower, which then copies those of the home.
The alternatives in the same run: for the first copy, reading all keys of one etcd and putting them into another, 100 in
a transaction; for catching up, the first copy. An agent with an empty catalog says what an agent costs at all.

Syncs are timed from the connection to the moment in which readers of the follower see the home's records; bytes are
those on the wire, in both directions, TLS and all.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from federation.etcd.client import connect
from federation.etcd.store import EtcdStore
from federation.store import Txn
from tests.bench.hand import Hand, hand_of
from tests.support.etcd import EtcdServer
from tests.support.meter import Meter
from tests.support.rss import rss_mib
from tests.support.zones import Zone, Zones, follows, free_port, link, yard

MISSED = 1000
"""Changes that a follower misses while it is cut off."""
SINGLE = 300
GROUPS, GROUP = 60, 90
BOUND = 1200.0
"""Seconds within which anything must happen."""
POLL = 0.02
MIB = 1 << 20

Figures = dict[str, float]


async def start(zone: Zone) -> float:
    """Start an agent and return how long it took until it served, with the start of its etcd."""
    begun = time.monotonic()
    await asyncio.to_thread(zone.start)
    return time.monotonic() - begun


async def restart(zone: Zone) -> float:
    await asyncio.to_thread(zone.terminate)
    return await start(zone)


async def linked(follower: Zone) -> None:
    async with asyncio.timeout(BOUND):
        while not await asyncio.to_thread(follows, follower):
            await asyncio.sleep(POLL)


async def plain_copy(source: Zone, target: EtcdServer) -> float:
    """Copy what the home has from its etcd into another, and return how long it took."""
    async with connect([f"127.0.0.1:{source.etcd_port}"]) as one, connect([target.endpoint]) as two:
        there = EtcdStore(two)
        begun = time.monotonic()
        items = (await EtcdStore(one).snapshot(f"/fedmarket/1/catalog/{source.id}/")).items
        for first in range(0, len(items), 100):
            await there.txn(Txn({}, puts={item.key: item.value for item in items[first : first + 100]}))
        return time.monotonic() - begun


@dataclass
class Wire:
    """Two zones and what is between them."""

    home: Zone
    follower: Zone
    meter: Meter
    records: int
    root: str
    """Of the home's records, as they are now."""

    async def join(self) -> tuple[float, int]:
        """Let the follower connect, and return the seconds and bytes until it has what the home has."""
        before = self.meter.bytes
        await self.meter.open()
        await self.equal()
        return time.monotonic() - self.meter.connected_at, self.meter.bytes - before

    async def equal(self) -> None:
        """Wait until readers of the follower see what the home has."""
        async with asyncio.timeout(BOUND):
            while (await asyncio.to_thread(link, self.follower)).here.root != self.root:
                await asyncio.sleep(POLL)

    async def told(self, hand: Hand, changes: list[list[int]]) -> float:
        """Make changes, one list in a commit, and return the bytes on the wire per change."""
        before = self.meter.bytes
        for numbers in changes:
            await hand.change_all(numbers)
        self.root = hand.root
        await self.equal()
        return (self.meter.bytes - before) / sum(map(len, changes))

    def some(self, count: int) -> list[int]:
        """Return the numbers of `count` different apps."""
        return random.sample(range(self.records), min(count, self.records))


@asynccontextmanager
async def wired(zones: Zones, records: int) -> AsyncGenerator[Wire, None]:
    """Run two zones with as many records each, of which one will follow the other."""
    home, follower = zones.make(0, "berlin"), zones.make(100, "tokyo")
    meter = Meter(home.peer)
    home.follow(follower.id, free_port(), follower.key)  # in vain: only one of the directions is looked at
    follower.follow(home.id, meter.port, home.key)
    for zone in (follower, home):
        await start(zone)
        async with hand_of(zone.config) as hand:
            await hand.make(records)
            root = hand.root
    try:
        yield Wire(home, follower, meter, records, root)
    finally:
        await meter.close()


async def catching_up(wire: Wire, full: tuple[float, int]) -> Figures:
    figures: Figures = {}
    for how in ("tail", "diff"):
        await wire.meter.close()
        async with hand_of(wire.home.config) as hand:
            for number in wire.some(MISSED):
                await hand.change(number)
            wire.root = hand.root
        if how == "diff":
            figures["start_own_s"] = await restart(wire.home)  # with an empty ring
        seconds, size = await wire.join()
        figures |= {
            f"missed_{how}_s": seconds,
            f"missed_{how}_mib": size / MIB,
            f"missed_{how}_time_to_full": seconds / full[0],
            f"missed_{how}_bytes_to_full": size / full[1],
        }
    return figures


async def bench(records: int) -> Figures:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name, yard(Path(name)) as zones:
        figures: Figures = {"records": records, "load_before": os.getloadavg()[0]}
        empty = zones.make(200, "empty")
        figures |= {"empty_start_s": await start(empty), "empty_rss_mib": rss_mib(empty.agent.pid)}
        empty.close()
        target = EtcdServer(Path(name) / "copy")
        async with wired(zones, records) as wire:
            target.start()
            try:
                copied = await plain_copy(wire.home, target)
            finally:
                target.stop()
            full = await wire.join()
            figures |= {
                "plain_copy_s": copied,
                "sync_s": full[0],
                "sync_records_per_s": records / full[0],
                "sync_mib": full[1] / MIB,
                "sync_time_to_plain_copy": full[0] / copied,
                "rss_after_sync_mib": rss_mib(wire.follower.agent.pid),
            }
            await linked(wire.follower)
            async with hand_of(wire.home.config) as hand:
                figures["single_bytes_per_change"] = await wire.told(hand, [[n] for n in wire.some(SINGLE)])
                groups = [wire.some(GROUP) for _ in range(GROUPS)]
                figures["group_bytes_per_change"] = await wire.told(hand, groups)
            figures |= await catching_up(wire, full)
            figures["start_own_and_replica_s"] = await restart(wire.follower)
            await wire.equal()
            figures["rss_mib"] = rss_mib(wire.follower.agent.pid)
            figures["rss_bytes_per_record"] = (figures["rss_mib"] - figures["empty_rss_mib"]) * MIB / (2 * records)
            return figures | {"load_after": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = {name: round(value, 3) for name, value in asyncio.run(bench(arguments.records)).items()}
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<28} {value:>12,.10g}")


if __name__ == "__main__":
    main()
