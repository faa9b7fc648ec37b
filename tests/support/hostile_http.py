"""An HTTP server that does wrong on request: each request takes the next behaviour of its script.

It writes HTTP/1.1 by hand on raw streams, because a proper server cannot be made to lie.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

RANGE = re.compile(r"^range: bytes=(\d+)-(\d+)\r?$", re.IGNORECASE | re.MULTILINE)


@dataclass
class Exchange:
    """One request, and the connection to answer it on."""

    server: "HostileServer"
    head: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def target(self) -> str:
        return self.head.split(" ", 2)[1]

    @property
    def range(self) -> tuple[int, int] | None:
        """First and last byte asked for."""
        match = RANGE.search(self.head)
        return (int(match[1]), int(match[2])) if match else None

    def asked(self) -> tuple[int, bytes]:
        """The first byte asked for, and the right bytes."""
        first, last = self.range or (0, len(self.server.content) - 1)
        return first, self.server.content[first : last + 1]

    async def partial(self, body: bytes, first: int, **headers: str) -> None:
        """Answer 206 with an honest head for `body` at `first`; `headers` (with _ for -) override it, "" leaves out."""
        span = f"bytes {first}-{first + len(body) - 1}/{len(self.server.content)}"
        await self.send(206, body, {"Content-Range": span, "ETag": self.server.etag}, headers)

    async def send(self, status: int, body: bytes, base: Mapping[str, str], extra: Mapping[str, str]) -> None:
        merged = {"Content-Length": str(len(body)), **base}
        merged |= {name.replace("_", "-"): value for name, value in extra.items()}
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in merged.items() if value)]
        await self.raw("\r\n".join([*lines, "", ""]).encode() + body)

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


Behaviour = Callable[[Exchange], Awaitable[None]]


@dataclass
class HostileServer:
    content: bytes
    etag: str = '"one"'
    port: int = 0
    script: deque[Behaviour] = field(default_factory=deque)
    requests: list[Exchange] = field(default_factory=list)
    connections: set[asyncio.StreamWriter] = field(default_factory=set)
    otherwise: Behaviour | None = None
    """What to do when the script is at its end; None: serve honestly."""
    unpeopled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no connection is open."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """A URL with what must never be told."""
        return f"http://{self.host}/blobs/1/x?expires=1&sig=secret"

    def ranges(self) -> list[tuple[int, int] | None]:
        return [request.range for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        self.unpeopled.clear()
        try:
            # A client that leaves in the middle is what many tests are about.
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    exchange = Exchange(self, head, reader, writer)
                    self.requests.append(exchange)
                    behaviour = self.script.popleft() if self.script else self.otherwise or honest
                    await behaviour(exchange)
        finally:
            self.connections.discard(writer)
            writer.close()
            if not self.connections:
                self.unpeopled.set()


@asynccontextmanager
async def hostile(
    content: bytes, *script: Behaviour, otherwise: Behaviour | None = None
) -> AsyncIterator[HostileServer]:
    """Run a server on a free port of the loopback."""
    server = HostileServer(content, script=deque(script), otherwise=otherwise)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    server.unpeopled.set()
    try:
        yield server
    finally:
        listener.close()
        for writer in list(server.connections):
            writer.transport.abort()
        await server.unpeopled.wait()


async def honest(exchange: Exchange) -> None:
    first, body = exchange.asked()
    await exchange.partial(body, first)


async def ignores_range(exchange: Exchange) -> None:
    await exchange.send(200, exchange.server.content, {"ETag": exchange.server.etag}, {})


async def whole_without_length(exchange: Exchange) -> None:
    await exchange.send(200, exchange.server.content, {}, {"Content_Length": "", "Connection": "close"})
    hang_up(exchange)


def hang_up(exchange: Exchange) -> None:
    exchange.writer.close()
    raise ConnectionResetError


async def until_client_leaves(exchange: Exchange) -> None:
    await exchange.reader.read()
    raise ConnectionResetError


def status(code: int, **headers: str) -> Behaviour:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(code, b"no\n", {}, headers)

    return answer


def with_headers(**headers: str) -> Behaviour:
    """Right bytes, under a head of which some lines are replaced."""

    async def answer(exchange: Exchange) -> None:
        first, body = exchange.asked()
        await exchange.partial(body, first, **headers)

    return answer


def cut_after(count: int) -> Behaviour:
    """The whole head, `count` bytes of the body, and a closed connection."""

    async def answer(exchange: Exchange) -> None:
        first, body = exchange.asked()
        await exchange.partial(body[:count], first, Content_Length=str(len(body)), Content_Range=_span(exchange))
        hang_up(exchange)

    return answer


def stall_after(count: int) -> Behaviour:
    """`count` bytes of the body, then nothing, until the client leaves."""

    async def answer(exchange: Exchange) -> None:
        first, body = exchange.asked()
        await exchange.partial(body[:count], first, Content_Length=str(len(body)), Content_Range=_span(exchange))
        await until_client_leaves(exchange)

    return answer


async def says_nothing(exchange: Exchange) -> None:
    await until_client_leaves(exchange)


def drip(pieces: int, every_seconds: float) -> Behaviour:
    async def answer(exchange: Exchange) -> None:
        first, body = exchange.asked()
        step = -(-len(body) // pieces)
        await exchange.partial(body[:step], first, Content_Length=str(len(body)), Content_Range=_span(exchange))
        for begin in range(step, len(body), step):
            await asyncio.sleep(every_seconds)
            await exchange.raw(body[begin : begin + step])

    return answer


def chunked(change: Callable[[bytes], bytes]) -> Behaviour:
    """A body of another length than its head announces, in chunks of good order."""

    async def answer(exchange: Exchange) -> None:
        first, body = exchange.asked()
        body = change(body)
        framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        headers = {"Content_Length": "", "Transfer_Encoding": "chunked", "Content_Range": _span(exchange)}
        await exchange.partial(framed, first, **headers)

    return answer


def appends(extra: bytes) -> Behaviour:
    """More bytes, behind the body."""

    async def answer(exchange: Exchange) -> None:
        first, body = exchange.asked()
        await exchange.partial(body + extra, first, Content_Length=str(len(body)), Content_Range=_span(exchange))

    return answer


def flips(position: int) -> Behaviour:
    """Answers honestly, but for one byte of the blob."""

    async def answer(exchange: Exchange) -> None:
        first, body = exchange.asked()
        if first <= position < first + len(body):
            spoilt = bytearray(body)
            spoilt[position - first] ^= 1
            body = bytes(spoilt)
        await exchange.partial(body, first)

    return answer


def changes_to(content: bytes, etag: str) -> Behaviour:
    """From this request on the blob is another one."""

    async def answer(exchange: Exchange) -> None:
        exchange.server.content, exchange.server.etag = content, etag
        await honest(exchange)

    return answer


def speaks(text: bytes) -> Behaviour:
    """Something that is no HTTP."""

    async def answer(exchange: Exchange) -> None:
        await exchange.raw(text)
        hang_up(exchange)

    return answer


def _span(exchange: Exchange) -> str:
    first, body = exchange.asked()
    return f"bytes {first}-{first + len(body) - 1}/{len(exchange.server.content)}"
