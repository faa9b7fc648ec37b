"""The wire between two zones, which counts what crosses it and can be taken away."""

import asyncio
import time
from asyncio import StreamReader, StreamWriter
from contextlib import suppress

from tests.support.zones import free_port

_BLOCK = 1 << 18


class Meter:
    """Relays `port` of loopback to another one while it is open."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.forth = 0
        """Bytes from who dials, TLS and all."""
        self.back = 0
        """Bytes to who dials."""
        self.connected_at = 0.0
        """When the first connection since `open` came, on the monotonic clock."""
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[StreamWriter] = set()
        self._relays: set[asyncio.Task[None]] = set()

    @property
    def bytes(self) -> int:
        """What crossed it, in both directions."""
        return self.forth + self.back

    async def open(self) -> None:
        """Let zones connect."""
        self.connected_at = 0.0
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=_BLOCK)

    async def close(self) -> None:
        """End every connection, and refuse new ones."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        if self._relays:
            await asyncio.wait(self._relays)

    async def _accept(self, near_reader: StreamReader, near: StreamWriter) -> None:
        relay = asyncio.create_task(self._relay(near_reader, near))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, near_reader: StreamReader, near: StreamWriter) -> None:
        self.connected_at = self.connected_at or time.monotonic()
        self._writers.add(near)
        with suppress(OSError):
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target, limit=_BLOCK)
            self._writers.add(far)
            await asyncio.gather(self._pump(near_reader, far, 1, 0), self._pump(far_reader, near, 0, 1))
            self._writers.discard(far)
        self._writers.discard(near)
        near.transport.abort()

    async def _pump(self, source: StreamReader, sink: StreamWriter, forth: int, back: int) -> None:
        with suppress(OSError):
            while block := await source.read(_BLOCK):
                self.forth += forth * len(block)
                self.back += back * len(block)
                sink.write(block)
                await sink.drain()
        sink.transport.abort()
