"""How fast a blob is fetched, hashed and verified, against `curl -o` of the same URL, alternating in one run.

    python -m tests.bench.transfer [--size MIB] [--rounds N] [--json]

The server is our HTTP face in a process of its own, on the loopback. Files lie in the current directory's file system.
"""

import argparse
import asyncio
import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from drivers.market.http import HttpMarket
from fedmarket.units import MIB
from zone_agent.address import Address
from zone_agent.faces.http import HttpFace
from zone_agent.transfer.fetch import fetch
from zone_agent.transfer.settings import TransferSettings
from zone_agent.transfer.signing import UrlSigner

SIGNER = UrlSigner(b"bench" * 8, time.time)


async def serve(directory: Path) -> None:
    market = HttpMarket(directory)
    face = HttpFace(Address("127.0.0.1", 0), SIGNER, lambda _, name: market.path(name))
    await face.run(lambda port: print(port, flush=True))


def make_blob(path: Path, size: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("wb") as blob:
        for _ in range(size // MIB):
            block = os.urandom(MIB)
            digest.update(block)
            blob.write(block)
    return digest.digest()


async def by_curl(url: str, target: Path) -> float:
    begun = time.perf_counter()
    curl = await asyncio.create_subprocess_exec("curl", "-sSf", "-o", target, url)
    status = await curl.wait()
    took = time.perf_counter() - begun
    if status:
        sys.exit(f"curl ended with status {status}")
    await asyncio.to_thread(target.unlink)
    return took


async def by_us(url: str, market: HttpMarket, size: int, sha256: bytes) -> float:
    """Fetch as the agent does, without the final fsync, which curl does not do either."""
    begun = time.perf_counter()
    async with aiohttp.ClientSession() as session:
        with market.stage("copy", "bench", size) as staging:
            await fetch(session, [url], size, sha256, staging.write, TransferSettings(), lambda _: None)
            return time.perf_counter() - begun


async def bench(size: int, rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        work = Path(name)
        (work / "berlin").mkdir()
        sha256 = await asyncio.to_thread(make_blob, work / "berlin" / "blob", size)
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __spec__.name, "--serve", work / "berlin", stdout=asyncio.subprocess.PIPE
        )
        assert server.stdout is not None
        try:
            port = int(await server.stdout.readline())
            url = SIGNER.sign(f"http://127.0.0.1:{port}", 0, "blob", 3600)
            curl, ours, cpu = [], [], []
            for _ in range(rounds):
                curl.append(await by_curl(url, work / "curl"))
                before = time.process_time()
                ours.append(await by_us(url, HttpMarket(work / "tokyo"), size, sha256))
                cpu.append(time.process_time() - before)
        finally:
            server.terminate()
            await server.wait()
    gib = size / (1 << 30)
    return {
        "size_mib": size / MIB,
        "curl_mib_per_s": size / MIB / min(curl),
        "ours_mib_per_s": size / MIB / min(ours),
        "ratio": min(curl) / min(ours),
        "cpu_seconds_per_gib": min(cpu) / gib,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, metavar="MIB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        asyncio.run(serve(asked.serve))
        return
    result = asyncio.run(bench(asked.size * MIB, asked.rounds))
    if asked.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{key:>20}  {value:10.2f}" for key, value in result.items()))


if __name__ == "__main__":
    main()
