"""Between the network and the disk: what arrives is hashed and written by threads while the next bytes arrive."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from fedmarket.digests import Digests, Hasher
from fedmarket.threads import ended, in_thread
from fedmarket.units import MIB

BLOCK_BYTES = MIB
"""What is handed over at a time. One block is gathered while one is written, and the hasher holds a few."""


class Spool:
    """Takes a blob's bytes in order and gives its digests. Leaving its context waits for the write in progress.

    `write(offset, data)` blocks; it is called in threads, one call at a time. What it raises, `put` or `finish` raises.
    """

    def __init__(self, write: Callable[[int, bytes], None], *, md5: bool = False) -> None:
        self._write = write
        self._hasher = Hasher(md5=md5)
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._offset = 0
        self._writing: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        self._hasher.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # The file may be closed once we are gone, and its descriptor be another file's: no write may outlive us.
            if self._writing is not None:
                await ended(self._writing)
        finally:
            await in_thread(lambda: self._hasher.__exit__(kind, error, trace))

    async def put(self, data: bytes) -> None:
        """Take the next bytes; waits while the disk or the digests are behind."""
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        if self._gathered_bytes >= BLOCK_BYTES:
            await self._hand_over()

    async def finish(self) -> Digests:
        """Wait until all is written, and return the digests of all."""
        await self._hand_over()
        await self._settle()
        return await in_thread(self._hasher.finish)

    async def _hand_over(self) -> None:
        await self._settle()
        if self._gathered:
            # Not a task: the end of the event loop cancels all tasks, and a thread runs on.
            loop = asyncio.get_running_loop()
            self._writing = loop.run_in_executor(None, self._take, self._offset, self._gathered)
            self._offset += self._gathered_bytes
            self._gathered, self._gathered_bytes = [], 0

    async def _settle(self) -> None:
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._writing = None

    def _take(self, offset: int, chunks: list[bytes]) -> None:
        block = b"".join(chunks)
        self._hasher.update(block)
        self._write(offset, block)
