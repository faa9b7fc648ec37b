"""A snapshot of etcd on its way to a file: the database, then 32 bytes that say what its SHA-256 is."""

import hashlib
from typing import BinaryIO

from fedmarket.errors import Corrupt

PRIVATE = 0o600
TRAILER_BYTES = 32
PAGE_BYTES = 512
"""What the size of a database is a multiple of."""


class SnapshotFile:
    """Writes what comes, and digests all of it but the last 32 bytes."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.size = 0
        self._file = file
        self._where = where
        self._digest = hashlib.sha256()
        self._tail = b""

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self._file.write(data)
        self.size += len(data)
        pending = self._tail + data
        self._tail = pending[-TRAILER_BYTES:]
        self._digest.update(pending[:-TRAILER_BYTES])

    def verify(self) -> str:
        """Return the SHA-256 of the database, in hex, once all has come. Raises Corrupt if it is not what was sent."""
        whole = self.size % PAGE_BYTES == TRAILER_BYTES and self.size > TRAILER_BYTES
        if not whole or self._digest.digest() != self._tail:
            raise Corrupt(
                f"the snapshot that etcd at {self._where} sent is not whole, or was changed on its way: nothing was "
                "kept, take it again"
            )
        return self._digest.hexdigest()
