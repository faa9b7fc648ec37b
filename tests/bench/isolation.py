"""How long GetApp (AppService.Show) takes while the same agent moves bytes, against how long it takes idle.

    python -m tests.bench.isolation [--size MIB] [--rounds N] [--pause MS] [--json]

One real agent with its etcd. A client in a process of its own asks it for one app, over and over. Meanwhile, in turns,
so that every kind of work sees the same machine: nothing; an export of a blob of `--size`, whose bytes the same agent
also serves; an app made from an image of that size; an import of such an image.
"""

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from fedmarket.units import MIB
from tests.bench.asker import Asked, asking
from tests.bench.figures import Figures, parser, percentile, show, spread
from tests.bench.transfer import make_blob
from tests.support.zones import Zone, yard

SMALL = b"x" * 5000


class Spans:
    """When each kind of work was done."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[float, float]]] = defaultdict(list)

    @contextmanager
    def __call__(self, kind: str) -> Generator[None, None, None]:
        begun = time.monotonic()
        yield
        self._spans[kind].append((begun, time.monotonic()))

    def seconds(self, kind: str) -> float:
        """Return how long the work took where it took least."""
        return min(end - begin for begin, end in self._spans[kind])

    def latencies(self, kind: str, asked: Asked) -> list[float]:
        """Return the milliseconds of what was asked meanwhile."""
        return asked.within(self._spans[kind])


def work_of(zone: Zone, blob: Path, market: int) -> dict[str, tuple[Callable[[str], object], Callable[[str], None]]]:
    """Return each kind of work, and how what it made is removed."""
    native = zone.native
    return {
        "export": (lambda name: native.export("big", name), native.delete_image),
        "create": (lambda name: native.create_app(name, "big", market), native.delete_app),
        "import": (lambda name: native.import_image(name, blob), native.delete_image),
    }


def measure(zone: Zone, blob: Path, rounds: int, pause_seconds: float, idle_seconds: float) -> Figures:
    native, spans = zone.native, Spans()
    market = native.create_market("m").id
    native.import_image("small", SMALL)
    asked_for = native.create_app("small", "small", market).id
    native.import_image("big", blob)
    native.create_app("big", "big", market)
    work = work_of(zone, blob, market)
    with asking(zone, asked_for, pause_seconds) as asked:
        for number in range(rounds):
            for kind, (do, undo) in work.items():
                with spans("idle"):
                    time.sleep(idle_seconds)
                with spans(kind):
                    do(f"{kind} {number}")
                undo(f"{kind} {number}")
    idle = spans.latencies("idle", asked)
    size = blob.stat().st_size / MIB
    figures: Figures = {"size_mib": size, **spread("idle_ms", idle)}
    for kind in work:
        busy = spans.latencies(kind, asked)
        figures |= spread(f"{kind}_ms", busy)
        figures[f"{kind}_p99_to_idle"] = percentile(busy, 0.99) / percentile(idle, 0.99)
        figures[f"{kind}_mib_per_s"] = size / spans.seconds(kind)
    return figures


def bench(size: int, rounds: int, pause_seconds: float, idle_seconds: float = 2.0) -> Figures:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name, yard(Path(name)) as zones:
        blob = Path(name) / "blob"
        make_blob(blob, size)
        zone = zones.make(0, "berlin")
        zone.start()
        load = {"load_before": os.getloadavg()[0]}
        return load | measure(zone, blob, rounds, pause_seconds, idle_seconds) | {"load_after": os.getloadavg()[0]}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=1024, metavar="MIB")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--pause", type=float, default=2.0, metavar="MS", help="between an answer and the next call")
    asked = options.parse_args()
    show(bench(asked.size * MIB, asked.rounds, asked.pause / 1000), asked.json)


if __name__ == "__main__":
    main()
