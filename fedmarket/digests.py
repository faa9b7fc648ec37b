"""SHA-256 and MD5 of a blob in one pass: the first is its identity, the second is what OpenNebula's records carry."""

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

MAX_PENDING = 8
"""Blocks that wait to be hashed, at most. Enough to ride out a slow read; with blocks of 1 MiB, 8 MiB of memory."""


@dataclass(frozen=True, slots=True)
class Digests:
    """What a blob is, byte for byte."""

    sha256: bytes
    md5: bytes
    """Empty where it was not asked for."""
    size: int
    """Bytes that were hashed."""

    @property
    def sha256_hex(self) -> str:
        """SHA-256 in lower-case hex."""
        return self.sha256.hex()

    @property
    def md5_hex(self) -> str:
        """MD5 in lower-case hex."""
        return self.md5.hex()


class Hasher:
    """Computes both digests at once, each in a thread of its own, while the caller reads and writes.

    hashlib releases the GIL on large buffers, so a pass takes as long as the slower digest, not as both. Give blocks of
    about 1 MiB. Use it as a context manager: leaving it ends the threads. Without `md5` it takes half the CPU.
    """

    def __init__(self, *, md5: bool = True) -> None:
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None
        # One worker each: a digest takes its blocks in order.
        self._lanes = [
            (digest.update, ThreadPoolExecutor(1, thread_name_prefix=digest.name))
            for digest in (self._sha256, self._md5)
            if digest is not None
        ]
        self._pending: deque[list[Future[None]]] = deque()
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, worker in self._lanes:
            worker.shutdown(cancel_futures=True)

    def update(self, block: bytes) -> None:
        """Hash the next block, in the background; blocks while `MAX_PENDING` others wait."""
        if len(self._pending) == MAX_PENDING:
            self._await_oldest()
        self._pending.append([worker.submit(update, block) for update, worker in self._lanes])
        self._size += len(block)

    def finish(self) -> Digests:
        """Wait for both digests of what was given so far, and return them."""
        while self._pending:
            self._await_oldest()
        return Digests(self._sha256.digest(), self._md5.digest() if self._md5 else b"", self._size)

    def _await_oldest(self) -> None:
        for done in self._pending.popleft():
            done.result()
