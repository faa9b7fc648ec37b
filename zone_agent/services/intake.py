"""The part of an import that waits for its client, and may be broken off with it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from drivers.capabilities import Staging
from drivers.datastore.formats import HEADER_BYTES
from fedmarket.digests import Digests
from fedmarket.errors import Cancelled, Corrupt
from zone_agent.jobs import Job
from zone_agent.transfer.spool import Spool


class Intake:
    """The part of an import that waits for its client."""

    def __init__(self) -> None:
        self._gone = False
        self._taking: asyncio.Future[None] | None = None

    def break_off(self) -> None:
        """Stop: the client has gone."""
        self._gone = True
        if self._taking is not None:
            self._taking.cancel()

    async def take(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work, unless or until it is broken off. Raises Cancelled."""
        self._taking = asyncio.ensure_future(work)
        if self._gone:
            self._taking.cancel()
        try:
            await self._taking
        except asyncio.CancelledError:
            raise Cancelled("the import was broken off: start it again") from None


async def take(staging: Staging, size: int, chunks: AsyncIterator[bytes], job: Job) -> tuple[Digests, bytes]:
    """Write and hash what comes; return its digests and its first bytes."""
    head = b""
    done = 0
    job.begin("receiving", size)
    async with Spool(staging.write, md5=True) as spool:
        async for chunk in chunks:
            if done + len(chunk) > size:
                raise Corrupt(f"more than the announced {size} bytes came: import a file that nothing writes to")
            if len(head) < HEADER_BYTES:
                head += chunk[: HEADER_BYTES - len(head)]
            await spool.put(chunk)
            done += len(chunk)
            job.progress(done)
        if done != size:
            raise Corrupt(f"only {done} of the announced {size} bytes came: import a file that nothing writes to")
        return await spool.finish(), head
