"""Throughput of SHA-256 and MD5: both in one pass, against one after the other.

Run it with `python -m tests.bench.digests [--size MIB] [--json]`. All is measured in one run, on bytes in memory, so
that the ratio means something on any machine. The ideal time of one pass is that of the slower digest.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

from fedmarket.digests import Hasher
from fedmarket.units import MIB


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def one_pass(block: bytes, count: int) -> None:
    with Hasher() as hasher:
        for _ in range(count):
            hasher.update(block)
        hasher.finish()


def sequential(name: str, block: bytes, count: int) -> None:
    digest = hashlib.new(name, usedforsecurity=False)
    for _ in range(count):
        digest.update(block)


def measure(size: int) -> dict[str, Any]:
    block = os.urandom(MIB)
    sha256 = seconds(lambda: sequential("sha256", block, size))
    md5 = seconds(lambda: sequential("md5", block, size))
    both = seconds(lambda: one_pass(block, size))
    return {
        "size_mib": size,
        "sha256_mib_s": round(size / sha256),
        "md5_mib_s": round(size / md5),
        "one_after_the_other_mib_s": round(size / (sha256 + md5)),
        "one_pass_mib_s": round(size / both),
        "speedup": round((sha256 + md5) / both, 2),
        "time_against_the_slower": round(both / max(sha256, md5), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.digests", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="default: 1024")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.size)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:28} {value:>8}")


if __name__ == "__main__":
    main()
