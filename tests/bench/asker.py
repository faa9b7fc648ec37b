"""A client in a process of its own: it asks an agent for one app, over and over, and tells how long each answer took.

`python -m tests.bench.asker HOST:PORT CREDENTIALS-FILE APP PAUSE-SECONDS` prints a line when it has begun, asks until
its stdin is closed, then prints a JSON list of [begin, seconds]; begin is of the clock that all processes share.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from tests.support.native import Native
from tests.support.zones import Zone


class Asked:
    """What an asker has seen; empty until it has ended."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []

    def note(self, seen: Iterable[tuple[float, float]]) -> None:
        self._seen.extend(seen)

    def within(self, spans: Iterable[tuple[float, float]]) -> list[float]:
        """Return the milliseconds of the answers to what was asked within any of some spans of time, sorted."""
        spans = list(spans)
        return sorted(took * 1000 for at, took in self._seen if any(begin <= at < end for begin, end in spans))


@contextmanager
def asking(zone: Zone, app: int, pause_seconds: float) -> Generator[Asked, None, None]:
    """Ask an agent for an app all the time while the context is open."""
    command = [sys.executable, "-m", "tests.bench.asker", f"127.0.0.1:{zone.grpc}", zone.credentials, app]
    asker = subprocess.Popen(
        [*map(str, command), str(pause_seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    asked = Asked()
    with asker:
        assert asker.stdin is not None
        assert asker.stdout is not None
        try:
            asker.stdout.readline()
            yield asked
            asker.stdin.close()
            asked.note(json.loads(asker.stdout.read()))
        except BaseException:
            asker.kill()
            raise


def _wait_for_end(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def main() -> None:
    address, credentials, app, pause = sys.argv[1:]
    native = Native(address, Path(credentials).read_text().strip())
    stop = threading.Event()
    threading.Thread(target=_wait_for_end, args=(stop,), daemon=True).start()
    for _ in range(50):  # the first ones pay for the connection
        native.app(int(app))
    print(flush=True)
    seen = []
    while not stop.wait(float(pause)):
        begun = time.monotonic()
        native.app(int(app))
        seen.append((begun, time.monotonic() - begun))
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
