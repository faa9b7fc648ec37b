"""Clients that make records in a zone as fast as it takes them, in a process of their own.

`python -m tests.bench.load ZONE.TOML SECONDS` prints a line when it begins, and the number of records at the end. It is
one more agent of the zone, which only writes: each client's record is one change, and the writer groups them.
"""

import asyncio
import itertools
import sys
import time
from pathlib import Path

from tests.bench.hand import hand_of

CLIENTS = 64


async def run(config: Path, seconds: float) -> int:
    async with hand_of(config) as hand:
        market = await hand.market()
        print(flush=True)
        numbers, end = itertools.count(), time.monotonic() + seconds

        async def client() -> int:
            made = 0
            while time.monotonic() < end:
                await hand.add([next(numbers)], market)
                made += 1
            return made

        return sum(await asyncio.gather(*(client() for _ in range(CLIENTS))))


if __name__ == "__main__":
    print(asyncio.run(run(Path(sys.argv[1]), float(sys.argv[2]))))
