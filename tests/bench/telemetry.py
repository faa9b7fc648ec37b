"""What telemetry costs: GetApp (AppService.Show) without it, with nothing configured, and with every call traced.

Three agents run side by side and are asked in turns, a few hundred calls each time, so that what else the machine does
meets all three. Ratios are of medians of rounds. `python -m tests.bench.telemetry [--rounds N] [--calls N] [--json]`.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.bench.figures import Figures, parser, percentile, show
from tests.support import zones
from tests.support.collector import collector
from tests.support.zones import FEDMARKET, Zone, yard

WITHOUT = f"""#!{sys.executable}
import sys
from zone_agent.cli.main import main
from zone_agent.telemetry import grpc_server

async def unobserved(self, continuation, details):
    return await continuation(details)

grpc_server.Observer.intercept_service = unobserved
sys.exit(main())
"""
STARTS = 11
"""Of `fedmarket --version`, each way."""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--calls", type=int, default=250, help="of each agent, in each round")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as directory, collector() as heard, yard(Path(directory)) as zones_made:
        launcher = Path(directory) / "launcher"
        launcher.write_text(WITHOUT)
        launcher.chmod(0o755)
        agents = {name: zones_made.make(number, name) for number, name in enumerate(("without", "off", "on"))}
        with program(str(launcher)):
            agents["without"].start()
        agents["off"].start()
        with variables(heard.variables | {"OTEL_BSP_SCHEDULE_DELAY": "5000", "OTEL_METRICS_EXPORTER": "none"}):
            agents["on"].start()
        apps = {name: made(zone) for name, zone in agents.items()}
        figures = measured(agents, apps, given.rounds, given.calls)
        for name, zone in agents.items():
            figures[f"{name}_rss_mib"] = rss_mib(zone)
        figures["spans_that_came"] = len(heard.spans())
        figures["version_ms"], figures["version_traced_ms"] = starts({}), starts(heard.variables)
    show(figures, given.json)


def measured(agents: dict[str, Zone], apps: dict[str, int], rounds: int, calls: int) -> Figures:
    """Ask the agents in turns; return p50 in microseconds, calls a second, and their ratios to `without`."""
    p50: dict[str, list[float]] = {name: [] for name in agents}
    rate: dict[str, list[float]] = {name: [] for name in agents}
    for number in range(rounds + 1):
        for name, zone in agents.items():
            took = []
            for _ in range(calls):
                begun = time.perf_counter()
                zone.native.app(apps[name])
                took.append(time.perf_counter() - begun)
            if number:  # the first warms up
                p50[name].append(percentile(took, 0.5) * 1e6)
                rate[name].append(calls / sum(took))
    figures: Figures = {}
    for name in agents:
        figures[f"{name}_p50_us"], figures[f"{name}_calls_per_s"] = median(p50[name]), median(rate[name])
    for name in ("off", "on"):
        figures[f"{name}_p50_ratio"] = median(ours / bare for ours, bare in zip(p50[name], p50["without"], strict=True))
        figures[f"{name}_rate_ratio"] = median(
            ours / bare for ours, bare in zip(rate[name], rate["without"], strict=True)
        )
    return figures


def made(zone: Zone) -> int:
    """Make the app that is asked for."""
    zone.native.import_image("image", bytes(4096))
    zone.native.create_market("market")
    return zone.native.create_app("app", "image", "market").id


def rss_mib(zone: Zone) -> float:
    """Return what an agent keeps in memory."""
    pages = int(Path(f"/proc/{zone.agent.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def starts(given: dict[str, str]) -> float:
    """Return the milliseconds of `fedmarket --version`, the median of several."""
    took = []
    for _ in range(STARTS):
        begun = time.perf_counter()
        subprocess.run([FEDMARKET, "--version"], check=True, env=os.environ | given, stdout=subprocess.DEVNULL)
        took.append((time.perf_counter() - begun) * 1000)
    return median(took)


@contextmanager
def program(path: str) -> Iterator[None]:
    """Let agents be started by another program than `fedmarket`."""
    usual, zones.FEDMARKET = zones.FEDMARKET, path
    try:
        yield
    finally:
        zones.FEDMARKET = usual


@contextmanager
def variables(given: dict[str, str]) -> Iterator[None]:
    """Let agents that are started have these variables."""
    usual = dict(os.environ)
    os.environ.update(given)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(usual)


if __name__ == "__main__":
    main()
