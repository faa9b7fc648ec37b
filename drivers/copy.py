"""From one store into another, hashed on the way, in one pass."""

from collections.abc import Callable
from typing import BinaryIO

from drivers.capabilities import Staging
from fedmarket.digests import Digests, Hasher
from fedmarket.errors import Cancelled, Corrupt, Unavailable
from fedmarket.telemetry import traced

BLOCK = 1 << 20
"""Bytes read at a time: large enough to hash and write at full speed, small enough to stay in a CPU's cache."""


@traced("driver copy")
def copy_blob(
    source: BinaryIO,
    size: int,
    staging: Staging,
    hasher: Hasher,
    progress: Callable[[int], None],
    cancelled: Callable[[], bool],
) -> Digests:
    """Copy a blob of `size` bytes into a staging, which the caller commits, and return its digests.

    Both digests are computed by the hasher's threads while this one reads and writes, and at most its queue of blocks
    is in memory. `progress` gets the bytes done so far. Blocks, for a worker thread. Raises Corrupt if the source does
    not have `size` bytes, Unavailable if it cannot be read, Cancelled between blocks, and what the staging raises.
    """
    done = 0
    while block := _read(source):
        if cancelled():
            raise Cancelled(
                f"the copy was cancelled after {done} of {size} bytes: start it again if it is still wanted"
            )
        if done + len(block) > size:
            raise Corrupt(
                f"the source grew while it was read: more than {size} bytes; import it again when nothing writes to it"
            )
        hasher.update(block)
        staging.write(done, block)
        done += len(block)
        progress(done)
    if done < size:
        raise Corrupt(
            f"the source shrank while it was read: {done} of {size} bytes; import it again when nothing writes to it"
        )
    return hasher.finish()


def _read(source: BinaryIO) -> bytes:
    try:
        return source.read(BLOCK)
    except OSError as error:
        raise Unavailable(
            f"the source cannot be read ({error.strerror or error}): look into this host's kernel log, then try again"
        ) from error
