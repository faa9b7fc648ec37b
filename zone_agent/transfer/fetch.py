"""A whole blob, from the first source that gives it rightly: read, hashed and written in one pass, then compared."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing

import aiohttp

from fedmarket.errors import Corrupt
from zone_agent.transfer.relay import relay
from zone_agent.transfer.settings import TransferSettings
from zone_agent.transfer.source import Changed, Fault, NoSourceLeft, Source, failure
from zone_agent.transfer.spool import Spool

log = logging.getLogger(__name__)


async def fetch(
    session: aiohttp.ClientSession,
    sources: Sequence[str],
    size: int,
    sha256: bytes,
    write: Callable[[int, bytes], None],
    settings: TransferSettings,
    progress: Callable[[int], None],
) -> None:
    """Pull a blob of `size` bytes into `write(offset, data)`; return once their SHA-256 is the right one.

    `sources` are URLs, nearest first; `session` carries no credentials of its own. `write` blocks and runs in threads,
    never two at once, and never after this has returned; what it raises (NoSpace) ends the fetch. Bytes may be written
    more than once, so nothing counts before the return: the caller commits then. `progress` is called on the event loop
    with the bytes that have arrived; it goes back when a pass begins again.

    Raises Corrupt if a source's bytes are not those of the record and no other source has them; Timeout and Unavailable
    if none can be read.
    """
    if not size:
        return _check_nothing(sha256)
    known = [Source.parse(url) for url in sources]
    together = True
    while usable := [source for source in known if not source.dropped]:
        group = usable if together else usable[:1]
        try:
            found = await _one_pass(session, group, size, write, settings, progress)
        except Changed as change:
            log.warning("the blob at source %s changed while it was read: starting again", change.source.name)
            continue
        except NoSourceLeft:
            continue
        if found == sha256:
            return None
        if together := _blame([source for source in group if source.used], found, sha256):
            continue
        log.warning("the bytes of several sources together do not match their SHA-256: trying each source alone")
    raise failure(known)


async def _one_pass(
    session: aiohttp.ClientSession,
    sources: Sequence[Source],
    size: int,
    write: Callable[[int, bytes], None],
    settings: TransferSettings,
    progress: Callable[[int], None],
) -> bytes:
    for source in sources:
        source.begin()
    received = 0
    async with Spool(write) as spool, aclosing(relay(session, sources, 0, size, settings)) as chunks:
        async for chunk in chunks:
            await spool.put(chunk)
            received += len(chunk)
            progress(received)
        return (await spool.finish()).sha256


def _blame(givers: Sequence[Source], found: bytes, sha256: bytes) -> bool:
    """Drop the source of wrong bytes; return False if it could be any of several."""
    if len(givers) > 1:
        return False
    fault = Fault(
        f"sent bytes with SHA-256 {found.hex()} where the record says {sha256.hex()}",
        cause=Corrupt,
        hopeless=True,
    )
    givers[0].fault, givers[0].dropped = fault, True
    log.warning("source %s %s", givers[0].name, fault)
    return True


def _check_nothing(sha256: bytes) -> None:
    if hashlib.sha256().digest() != sha256:
        raise Corrupt("the record gives an empty blob the SHA-256 of another one: delete the app and create it again")
