"""What an agent with many apps costs: GetApp, a list of all, a market that holds all; its start and its memory.

    python -m tests.bench.reading [--apps N] [--json]

One real agent with its etcd, one client with one connection. Times are those of calls of the native API as a program
makes them, messages parsed. A list of 10,000 apps is ten pages. Memory is that of the agent without its etcd: after a
start, and at the end; PSS counts pages that are shared with other processes in part only.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.figures import Figures, parser, percentile, show
from tests.bench.hand import hand_of
from tests.bench.rates import names
from tests.support.rss import pss_mib, rss_mib
from tests.support.zones import Zone, yard

READS, LISTS = 500, 20


async def fill(zone: Zone, apps: int) -> int:
    """Make apps in one market, and return its id."""
    async with hand_of(zone.config) as hand:
        return await hand.make(apps)


def timed(call: Callable[[], object], times: int) -> list[float]:
    """Return how long some calls took, in milliseconds."""
    took = []
    for _ in range(times):
        begun = time.monotonic()
        call()
        took.append((time.monotonic() - begun) * 1000)
    return took


def reads(zone: Zone, market: int, apps: int) -> Figures:
    native = zone.native
    app = zone.id * 1_000_000 + 100 + apps // 2
    assert len(names(native)) == apps
    one, all_of_them = timed(lambda: native.app(app), READS), timed(lambda: names(native), LISTS)
    held = timed(lambda: native.market(market), READS)
    return {
        "apps": apps,
        "get_app_ms_p50": percentile(one, 0.5),
        "get_app_ms_p99": percentile(one, 0.99),
        "list_all_ms_p50": percentile(all_of_them, 0.5),
        "show_market_ms_p50": percentile(held, 0.5),
        "show_market_ms_p99": percentile(held, 0.99),
    }


def started(zone: Zone) -> Figures:
    """Start an agent again, and say how long that took, its etcd included, and what it takes of memory."""
    zone.terminate()
    begun = time.monotonic()
    zone.start()
    seconds = time.monotonic() - begun
    return {"start_s": seconds, "rss_mib": rss_mib(zone.agent.pid), "pss_mib": pss_mib(zone.agent.pid)}


def bench(apps: int) -> Figures:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name, yard(Path(name)) as zones:
        zone = zones.make(0, "berlin")
        zone.start()
        market = asyncio.run(fill(zone, apps))
        start = started(zone)
        figures = start | reads(zone, market, apps)
        return figures | {"rss_after_reads_mib": rss_mib(zone.agent.pid)}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--apps", type=int, default=10_000)
    asked = options.parse_args()
    show(bench(asked.apps), asked.json)


if __name__ == "__main__":
    main()
