"""How fast bytes move into a market and out of it, against what a shell has for it, alternating in one run.

    python -m tests.bench.moving [--size MIB] [--rounds N] [--json]

Two real agents with an etcd each. Import: an app is made from an image of the datastore (one pass, SHA-256 and MD5),
against `md5sum` and then `cp` of it, which is what OpenNebula does. Export: the app comes into a datastore of its own
zone, and of the other zone, verified, against `curl | sha256sum` of the same blob. Ours end with an fsync, and with
the record READY; those of the shell do not. The best of the rounds counts.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from federation.trust.keys import ZoneKey
from fedmarket.units import MIB
from tests.bench.figures import Figures, parser, show
from tests.bench.transfer import make_blob
from tests.support.zones import Pair, Zone, holds, until, yard
from zone_agent.agent import URL_SECRET
from zone_agent.config import load
from zone_agent.transfer.signing import UrlSigner


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def by_shell(*commands: str) -> float:
    """Return how long some commands take, one after the other."""
    return seconds_of(
        lambda: [
            subprocess.run(["bash", "-c", f"set -o pipefail; {one}"], check=True, stdout=subprocess.DEVNULL)
            for one in commands
        ]
    )


def url_of(zone: Zone, source: str) -> str:
    """Return a URL of a blob of a zone, by what its app gives as its SOURCE."""
    market, name = source.split("/")[-2:]
    signer = UrlSigner(ZoneKey.load(load(zone.config).layout.key).derive(URL_SECRET), time.time)
    return signer.sign(f"http://127.0.0.1:{zone.http}", int(market), name, 3600)


def measure(pair: Pair, directory: Path, size: int, rounds: int) -> Figures:
    berlin, tokyo = pair.berlin.native, pair.tokyo.native
    blob, copy = directory / "blob", directory / "copy"
    make_blob(blob, size)
    took: dict[str, list[float]] = {name: [] for name in ("stream", "create", "md5sum_cp", "curl", "export", "abroad")}
    market = berlin.create_market("m").id
    for _ in range(rounds):
        took["stream"].append(seconds_of(lambda: berlin.import_image("image", blob)))
        took["md5sum_cp"].append(by_shell(f"md5sum {blob}", f"cp {blob} {copy}"))
        took["create"].append(seconds_of(lambda: berlin.create_app("app", "image", market)))
        app = berlin.app("app")
        until(lambda: holds(pair.tokyo, pair.berlin), "tokyo has the app")
        took["curl"].append(by_shell(f"curl -sSf '{url_of(pair.berlin, app.source)}' | sha256sum"))
        took["export"].append(seconds_of(lambda: berlin.export("app", "exported")))
        took["abroad"].append(seconds_of(lambda: tokyo.export("app", "exported")))
        berlin.delete_app("app")
        for native, name in ((berlin, "image"), (berlin, "exported"), (tokyo, "exported")):
            native.delete_image(name)
        copy.unlink()
    best = {name: min(values) for name, values in took.items()}
    figures: Figures = {"size_mib": size / MIB} | {f"{n}_mib_per_s": size / MIB / s for n, s in best.items()}
    return figures | {
        "create_to_md5sum_cp": best["md5sum_cp"] / best["create"],
        "export_to_curl": best["curl"] / best["export"],
        "abroad_to_curl": best["curl"] / best["abroad"],
    }


def bench(size: int, rounds: int) -> Figures:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name, yard(Path(name)) as zones:
        return measure(zones.pair(), Path(name), size, rounds)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=1024, metavar="MIB")
    options.add_argument("--rounds", type=int, default=3)
    asked = options.parse_args()
    show(bench(asked.size * MIB, asked.rounds), asked.json)


if __name__ == "__main__":
    main()
