"""How many changes a second an agent makes, for 1 and for 8 clients; and 1,000 apps created at once in the second zone.

    python -m tests.bench.rates [--seconds S] [--creates N] [--json]

Two real agents with an etcd each. A change is a chmod through the native API; each client has an app and a connection
of its own. The creates are whole ones, of an image of 5,000 bytes, 32 at a time, in tokyo's own market; a create counts
as failed unless its job is DONE, the app READY at once in tokyo, and there in berlin in the end.
"""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from fedmarket.pb.fedmarket.v1.app_pb2 import ListAppsRequest
from fedmarket.pb.fedmarket.v1.common_pb2 import Page
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_STATE_DONE
from fedmarket.pb.fedmarket.v1.record_pb2 import APP_STATE_READY
from tests.bench.figures import Figures, parser, percentile, show
from tests.bench.visible import chmod
from tests.support.native import Native
from tests.support.zones import Pair, Zone, holds, until, yard

CLIENTS = 8
AT_ONCE = 32
BOUND = 120.0


def client_of(zone: Zone) -> Native:
    """Return a connection of its own."""
    return Native(f"127.0.0.1:{zone.grpc}", zone.credentials.read_text().strip())


def changing(native: Native, app: int, seconds: float) -> list[float]:
    """Change an app as fast as the agent answers; return how long each answer took, in milliseconds."""
    took: list[float] = []
    end = time.monotonic() + seconds
    while (begun := time.monotonic()) < end:
        chmod(native, app, len(took) % 2 == 0)
        took.append((time.monotonic() - begun) * 1000)
    return took


def changes(zone: Zone, apps: list[int], seconds: float, name: str) -> Figures:
    """Let a client per app make changes, and say how many were made."""
    natives = [client_of(zone) for _ in apps]
    with ThreadPoolExecutor(len(apps)) as threads:
        took = [one for each in threads.map(changing, natives, apps, [seconds] * len(apps)) for one in each]
    for native in natives:
        native.close()
    return {f"{name}_per_s": len(took) / seconds, f"{name}_ms_p99": percentile(took, 0.99)}


def created(zone: Zone, name: str, image: int, market: int) -> bool:
    """Create an app, and say whether that succeeded."""
    native = zone.native
    try:
        begun = native.begin_app(name, image, market)
        return native.wait(begun.job_id).state == JOB_STATE_DONE and native.app(begun.app.id).state == APP_STATE_READY
    except grpc.RpcError:
        return False


def names(native: Native) -> set[str]:
    """Return the names of all apps, page by page."""
    found: set[str] = set()
    after = -1
    while True:
        answer = native.call(native.apps.List, ListAppsRequest(page=Page(after=after)))
        found |= {app.name for app in answer.apps}
        after = answer.next
        if after < 0:
            return found


def creates(pair: Pair, count: int) -> Figures:
    """Create apps in tokyo."""
    native = pair.tokyo.native
    image = native.import_image("tiny", b"x" * 5000).id
    market = native.create_market("of tokyo").id
    wanted = [f"created {number}" for number in range(count)]
    begun = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        done = list(threads.map(lambda name: created(pair.tokyo, name, image, market), wanted))
    seconds = time.monotonic() - begun
    until(lambda: holds(pair.berlin, pair.tokyo), "berlin has what tokyo has", BOUND)
    return {
        "creates": count,
        "creates_failed": done.count(False),
        "creates_missing_in_berlin": len(set(wanted) - names(pair.berlin.native)),
        "creates_per_s": count / seconds,
    }


def measure(pair: Pair, seconds: float, count: int) -> Figures:
    native = pair.berlin.native
    image, market = native.import_image("small", b"x" * 5000).id, native.create_market("m").id
    apps = [native.create_app(f"app {number}", image, market).id for number in range(CLIENTS)]
    until(lambda: holds(pair.tokyo, pair.berlin), "tokyo has the apps", BOUND)
    return {
        **changes(pair.berlin, apps[:1], seconds, "changes_1"),
        **changes(pair.berlin, apps, seconds, f"changes_{CLIENTS}"),
        **changes(pair.tokyo, apps[:1], seconds, "forwarded_1"),
        **changes(pair.tokyo, apps, seconds, f"forwarded_{CLIENTS}"),
        **creates(pair, count),
    }


def bench(seconds: float, count: int) -> Figures:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name, yard(Path(name)) as zones:
        return measure(zones.pair(), seconds, count)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=5.0, help="of changes")
    options.add_argument("--creates", type=int, default=1000)
    asked = options.parse_args()
    show(bench(asked.seconds, asked.creates), asked.json)


if __name__ == "__main__":
    main()
