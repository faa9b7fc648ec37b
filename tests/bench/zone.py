"""The figures of one zone, and of two, beside OpenNebula's and beside the goals: all in one command.

    python -m tests.bench.zone [--short] [--json]

OpenNebula's column is of its own daemon, measured on a machine of the same class on another day: an order of magnitude.
Each row is measured by a benchmark of this directory that can be run alone, and says there how: visible, rates,
reading, moving, isolation. `--short` is for seeing that they work: its figures mean nothing.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass

from fedmarket.units import MIB
from tests.bench import isolation, moving, rates, reading, visible
from tests.bench.figures import Figures, parser


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    opennebula: str
    goal: str
    tell: Callable[[Figures], str]


ROWS = (
    Row(
        "change in berlin until visible in tokyo, every 20 ms, p50 / p99",
        "4.7 / 103 ms",
        "5 / 20 ms",
        lambda f: f"{f['lag_ms_p50']:.1f} / {f['lag_ms_p99']:.1f} ms",
    ),
    Row(
        "change asked in tokyo until visible at home in berlin, p50 / p99",
        "1.8 / 5.1 ms",
        "",
        lambda f: f"{f['lag_back_ms_p50']:.1f} / {f['lag_back_ms_p99']:.1f} ms",
    ),
    Row(
        "tokyo behind, while records are created as fast as berlin takes them, p50 / p99 / max",
        "45 s at 131/s",
        "1 s",
        lambda f: (
            f"{f['load_behind_s_p50']:.2f} / {f['load_behind_s_p99']:.2f} / {f['load_behind_s_max']:.2f} s "
            f"at {f['load_records_per_s']:,.0f}/s"
        ),
    ),
    Row(
        "changes a second, 1 / 8 clients",
        "230 / 280",
        "690 / 1,400",
        lambda f: f"{f['changes_1_per_s']:,.0f} / {f['changes_8_per_s']:,.0f}",
    ),
    Row(
        "the same, asked in the zone that is not home",
        "86 / 180",
        "",
        lambda f: f"{f['forwarded_1_per_s']:,.0f} / {f['forwarded_8_per_s']:,.0f}",
    ),
    Row(
        "creates in the second zone that fail",
        "30-70 %",
        "none",
        lambda f: f"{f['creates_failed']:.0f} of {f['creates']:.0f}, at {f['creates_per_s']:.0f}/s",
    ),
    Row(
        "own change not shown where it was asked, own / forwarded",
        "107 of 300",
        "never",
        lambda f: f"{f['stale_own']:.0f} / {f['stale_forwarded']:.0f} of {f['samples']:.0f}",
    ),
    Row("GetApp, p50", "0.7 ms", "0.7 ms", lambda f: f"{f['get_app_ms_p50']:.2f} ms"),
    Row("list of all apps", "23 ms", "11.5 ms", lambda f: f"{f['list_all_ms_p50']:.0f} ms of {f['apps']:,.0f}"),
    Row("show of the market that holds them", "18 ms", "3.6 ms", lambda f: f"{f['show_market_ms_p50']:.2f} ms"),
    Row(
        "import into a market, hashed and verified",
        "206-227 MiB/s",
        "430 MiB/s",
        lambda f: f"{f['create_mib_per_s']:.0f} MiB/s, {f['create_to_md5sum_cp']:.2f} times md5sum and cp",
    ),
    Row(
        "export, verified",
        "83 MiB/s",
        "330 MiB/s",
        lambda f: f"{f['export_mib_per_s']:.0f} MiB/s, {f['export_to_curl']:.2f} times curl and sha256sum",
    ),
    Row(
        "export into the other zone, verified",
        "83 MiB/s",
        "330 MiB/s",
        lambda f: f"{f['abroad_mib_per_s']:.0f} MiB/s, {f['abroad_to_curl']:.2f} times curl and sha256sum",
    ),
    Row("start of an agent with all apps, and its etcd", "", "2 s", lambda f: f"{f['start_s']:.1f} s"),
    Row("its memory: RSS / PSS", "69 MB", "150 MiB", lambda f: f"{f['rss_mib']:.0f} / {f['pss_mib']:.0f} MiB"),
    Row("GetApp while it exports, p99", "", "3 times idle", lambda f: _beside(f, "export")),
    Row("GetApp while it makes an app, p99", "", "3 times idle", lambda f: _beside(f, "create")),
    Row("GetApp while it takes an import, p99", "", "3 times idle", lambda f: _beside(f, "import")),
)


def _beside(f: Figures, kind: str) -> str:
    return f"{f[f'{kind}_ms_p99']:.1f} ms, {f[f'{kind}_p99_to_idle']:.1f} times {f['idle_ms_p99']:.1f} ms"


def bench(*, short: bool) -> Figures:
    """Run all; `short` in seconds, with tiny sizes."""
    size, rounds = (4 * MIB, 1) if short else (1024 * MIB, 3)
    figures: Figures = {"load_average_before": os.getloadavg()[0]}
    figures |= visible.bench(*((10, 0.5) if short else (300, 60.0)))
    figures |= rates.bench(*((0.2, 10) if short else (5.0, 1000)))
    figures |= reading.bench(200 if short else 10_000)
    figures |= moving.bench(size, rounds)
    moved_beside = isolation.bench(size, rounds, 0.002, 0.2 if short else 2.0)
    figures |= {name: value for name, value in moved_beside.items() if not name.endswith("mib_per_s")}
    return figures | {"load_average_after": os.getloadavg()[0]}


def table(figures: Figures) -> str:
    """Return the table of the issue, in Markdown."""
    lines = ["| figure | OpenNebula | goal | fedmarket |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.opennebula} | {row.goal} | {row.tell(figures)} |" for row in ROWS]
    loads = f"{figures['load_average_before']:.1f} before, {figures['load_average_after']:.1f} after"
    return "\n".join([*lines, "", f"Load average {loads}; {os.cpu_count()} CPUs."])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--short", action="store_true")
    asked = options.parse_args()
    figures = {name: round(value, 3) for name, value in bench(short=asked.short).items()}
    print(json.dumps(figures) if asked.json else table(figures))


if __name__ == "__main__":
    main()
