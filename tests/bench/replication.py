"""How many changes a second a zone commits, and how soon its peer has them, on real etcds.

    python -m tests.bench.replication [--changes N] [--clients N] [--json]

Two zones in one process, each with an etcd of its own; the stream between them is in memory. The alternative in the
same run: one etcd transaction per change, without heads: the most that a catalog without group commit could do.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

from federation.etcd.client import connect
from federation.etcd.store import EtcdStore
from federation.store import Store, Txn
from tests.support.etcd import EtcdServer
from tests.support.federation import Zone


async def plain(store: Store, changes: int, clients: int) -> float:
    async def client(number: int) -> None:
        for n in range(number, changes, clients):
            await store.txn(Txn({f"/plain/{n}": 0}, puts={f"/plain/{n}": b"x" * 200}))

    begun = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return changes / (time.perf_counter() - begun)


async def committed(home: Zone, peer: Zone, changes: int, clients: int) -> tuple[float, float]:
    async def client(number: int) -> None:
        for n in range(number, changes, clients):
            await home.create(f"market {n} {'x' * 150}")

    begun = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    rate = changes / (time.perf_counter() - begun)
    await peer.caught_up_with(home)
    return rate, changes / (time.perf_counter() - begun)


async def lags(home: Zone, peer: Zone, samples: int) -> list[float]:
    measured = []
    for n in range(samples):
        await home.create(f"sample {n}")
        begun = time.perf_counter()
        await peer.caught_up_with(home)
        measured.append((time.perf_counter() - begun) * 1000)
    return sorted(measured)


async def bench(changes: int, clients: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        servers = [EtcdServer(Path(directory) / name) for name in ("berlin", "tokyo")]
        for server in servers:
            server.start()
        try:
            async with connect([servers[0].endpoint]) as one, connect([servers[1].endpoint]) as two:
                here, there = EtcdStore(one), EtcdStore(two)
                async with Zone(0, here) as berlin, Zone(100, there) as tokyo:  # type: ignore[arg-type]
                    tokyo.follow(berlin)
                    without = await plain(here, changes, clients)
                    alone, replicated = await committed(berlin, tokyo, changes, clients)
                    lag = await lags(berlin, tokyo, 200)
        finally:
            for server in servers:
                server.stop()
    return {
        "plain_txn_per_s": round(without),
        "commits_per_s": round(alone),
        "replicated_per_s": round(replicated),
        "ratio_to_plain": round(alone / without, 2),
        "lag_ms_p50": round(lag[len(lag) // 2], 2),
        "lag_ms_p99": round(lag[len(lag) * 99 // 100], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = asyncio.run(bench(arguments.changes, arguments.clients))
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<18} {value}")


if __name__ == "__main__":
    main()
