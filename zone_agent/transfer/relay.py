"""Bytes of a blob in order, from whichever source gives them: where one fails, the next goes on from there."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import aiohttp

from fedmarket.errors import BadInput, Unavailable
from fedmarket.units import MIB
from zone_agent.telemetry.instruments import BYTES
from zone_agent.transfer.ranges import read_range
from zone_agent.transfer.settings import TransferSettings
from zone_agent.transfer.source import Changed, Fault, NoSourceLeft, Source, failure

log = logging.getLogger(__name__)

_SENT = BYTES.labels("out", "download")


async def relay(
    session: aiohttp.ClientSession, sources: Sequence[Source], start: int, size: int, settings: TransferSettings
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes from `start` to the end of a blob of `size` bytes.

    Raises NoSourceLeft (each source holds its reason), and Changed if the blob changed at a source.
    """
    position = start
    while position < size:
        source = _next(sources)
        if source.failures:
            await asyncio.sleep(settings.backoff.delay(source.failures))
        begun, end = position, min(position + settings.part_bytes, size)
        try:
            async with aclosing(read_range(session, source, begun, end, size, settings)) as chunks:
                async for chunk in chunks:
                    position += len(chunk)
                    source.used = True
                    yield chunk
        except Fault as fault:
            source.fail(fault, settings.attempts, gained=position - begun >= settings.gain_bytes)
            log.warning(
                "source %s %s, at byte %d of %d; %s",
                source.name, fault, position, size, "it is dropped" if source.dropped else "it may be asked again",
            )  # fmt: skip
        else:
            source.failures = 0


def _next(sources: Sequence[Source]) -> Source:
    """Return the source that failed least, the nearest of those: one that works is kept."""
    usable = [source for source in sources if not source.dropped]
    if not usable:
        raise NoSourceLeft()
    return min(usable, key=lambda source: source.failures)


async def stream(
    session: aiohttp.ClientSession,
    sources: Sequence[str],
    size: int,
    settings: TransferSettings,
    *,
    offset: int = 0,
    chunk_bytes: int = MIB,
) -> AsyncGenerator[bytes, None]:
    """Yield a blob of `size` bytes from `offset` on, all of it or an error, in chunks of at most `chunk_bytes`.

    `sources` are URLs, nearest first. Nothing is kept and no digest is checked here: the reader checks it at the end.
    Close it (`contextlib.aclosing`) to end its connection. Raises BadInput, Unavailable, Timeout, Corrupt.
    """
    if not 0 <= offset <= size:
        raise BadInput(f"byte {offset} is outside the blob's {size} bytes: read from 0, or from where you broke off")
    known = [Source.parse(url) for url in sources]
    try:
        async with aclosing(relay(session, known, offset, size, settings)) as chunks:
            async for chunk in chunks:
                _SENT.inc(len(chunk))
                for begin in range(0, len(chunk), chunk_bytes):
                    yield chunk[begin : begin + chunk_bytes]
    except NoSourceLeft:
        raise failure(known) from None
    except Changed as change:
        raise Unavailable(f"the blob at {change.source.name} changed while it was read: read it again from 0") from None
