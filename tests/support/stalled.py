"""A source that begins to give a blob, and then says nothing more."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

_RANGE = re.compile(rb"range: bytes=(\d+)-(\d+)", re.IGNORECASE)


@dataclass
class Stalled:
    """The source, and whether anybody has come to it."""

    url: str = ""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def stalled(size: int, sent: int = 1000) -> AsyncGenerator[Stalled, None]:
    """Serve a blob of `size` bytes, of each range only the first bytes."""
    source = Stalled()
    answers: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering = asyncio.current_task()
        assert answering is not None
        answers.add(answering)
        try:
            asked = _RANGE.search(await reader.readuntil(b"\r\n\r\n"))
            assert asked is not None
            first, last = int(asked[1]), int(asked[2])
            head = (
                f"HTTP/1.1 206 OK\r\nContent-Range: bytes {first}-{last}/{size}\r\nContent-Length: {last - first + 1}"
            )
            writer.write(f"{head}\r\n\r\n".encode() + b"x" * sent)
            source.asked.set()
            with suppress(ConnectionError):
                await reader.read()
            source.left.set()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        async with server:
            source.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/blob?sig=secret"
            yield source
    finally:
        for answering in answers:
            answering.cancel()
        await asyncio.gather(*answers, return_exceptions=True)
