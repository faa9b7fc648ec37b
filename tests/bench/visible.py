"""How soon a change is seen: in another zone, in the same zone, quiet and under load.

    python -m tests.bench.visible [--samples N] [--seconds S] [--json]

Two real agents with an etcd each; one client process, and so one clock. A change is a chmod through the native API;
from its answer on, the other zone is asked for the app until it shows the change, as OpenNebula was measured. Then
another process makes records as fast as berlin takes them, and a sample is the time from the moment in which berlin
shows a head to the one in which tokyo shows it too.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fedmarket.pb.fedmarket.v1.change_pb2 import Chmod, Verb
from tests.bench.figures import Figures, parser, show, spread
from tests.support.native import Native
from tests.support.zones import Pair, Zone, link, until, yard

EVERY_SECONDS = 0.02
BOUND = 120.0
OTHER_USE = 0o004
"""The bit that changes."""


def chmod(native: Native, app: int, on: bool) -> None:
    """Give or take a permission of an app."""
    bits = Chmod(set=OTHER_USE) if on else Chmod(clear=OTHER_USE)
    native.change("app", app, Verb(chmod=bits))


def shows(native: Native, app: int, on: bool) -> bool:
    """Say whether an agent shows that permission so."""
    return (native.app(app).permissions[6] == "u") == on


def first_app(zone: Zone) -> int:
    """Make an app, and return its id."""
    zone.native.import_image("small", b"x" * 5000)
    return zone.native.create_app("small", "small", zone.native.create_market("m").id).id


def lags(writer: Native, reader: Native, app: int, samples: int) -> list[float]:
    """Return the milliseconds from the answer to a change until the reader's agent shows it."""
    measured = []
    for number in range(samples):
        begun = time.monotonic()
        chmod(writer, app, number % 2 == 0)
        answered = time.monotonic()
        while not shows(reader, app, number % 2 == 0):
            assert time.monotonic() < answered + BOUND
        measured.append((time.monotonic() - answered) * 1000)
        time.sleep(max(0.0, begun + EVERY_SECONDS - time.monotonic()))
    return measured


def stale(native: Native, app: int, samples: int) -> int:
    """Return how many of some changes were not shown by the very agent that had answered them."""
    count = 0
    for number in range(samples):
        chmod(native, app, number % 2 == 0)
        count += not shows(native, app, number % 2 == 0)
    return count


def under_load(pair: Pair, seconds: float) -> Figures:
    """Make records for some seconds, and say how far tokyo is behind meanwhile, in seconds."""
    command = [sys.executable, "-m", "tests.bench.load", str(pair.berlin.config), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        assert load.stdout is not None
        load.stdout.readline()
        behind = []
        while load.poll() is None:
            head, at = pair.berlin.native.status().self.head, time.monotonic()
            while link(pair.tokyo).here.seq < head.seq:
                assert time.monotonic() < at + BOUND
            behind.append(time.monotonic() - at)
            time.sleep(EVERY_SECONDS)
        made = int(load.stdout.read())
    begun = time.monotonic()
    until(lambda: link(pair.tokyo).here.root == pair.berlin.native.status().self.head.root, "all is there", BOUND)
    return {
        "load_records_per_s": made / seconds,
        **spread("load_behind_s", behind),
        "load_drained_s": time.monotonic() - begun,
    }


def measure(pair: Pair, samples: int, seconds: float) -> Figures:
    berlin, tokyo = pair.berlin.native, pair.tokyo.native
    app = first_app(pair.berlin)
    until(lambda: "small" in tokyo.app_names(), "tokyo has the app")
    return {
        **spread("lag_ms", lags(berlin, tokyo, app, samples)),
        **spread("lag_back_ms", lags(tokyo, berlin, app, samples)),
        "stale_own": stale(berlin, app, samples),
        "stale_forwarded": stale(tokyo, app, samples),
        "samples": samples,
        **under_load(pair, seconds),
    }


def bench(samples: int, seconds: float) -> Figures:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name, yard(Path(name)) as zones:
        return measure(zones.pair(), samples, seconds)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=300)
    options.add_argument("--seconds", type=float, default=60.0, help="of load")
    asked = options.parse_args()
    show(bench(asked.samples, asked.seconds), asked.json)


if __name__ == "__main__":
    main()
