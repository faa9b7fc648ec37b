"""One file on its way into a directory of blobs."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from drivers.faults import told
from drivers.space import no_room, reserve
from fedmarket.errors import AlreadyExists, Corrupt, Refused
from fedmarket.telemetry import traced

WRITE_OUT = 1 << 20
"""Bytes. A write of at least this much is sent to the disk at once; a smaller one may share its page with the next."""

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})

log = logging.getLogger(__name__)


class StagedFile:
    """A blob that is invisible until committed. Leaving its context without a commit removes what was written."""

    def __init__(self, fd: int, path: Path, target: Path, size: int | None, mode: int) -> None:
        self._fd = fd
        self._path = path
        self._target = target
        self._size = size
        self._mode = mode
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    @property
    def path(self) -> Path:
        """Where the bytes are until the commit."""
        return self._path

    def reserve(self) -> None:
        """Reserve the space of the announced size. Raises NoSpace."""
        with self._told():
            reserve(self._fd, self._size or 0)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write at a byte offset, in any order; several threads may write at once.

        Raises NoSpace when the store is full, Corrupt beyond the announced size.
        """
        self._require_open()
        end = offset + len(data)
        if offset < 0 or (self._size is not None and end > self._size):
            raise Corrupt(
                f"{self._target.name} was announced with {self._size} bytes, but bytes {offset} to {end} came: "
                "start again from the source"
            )
        with self._told():
            view = memoryview(data)
            while view:
                view = view[os.pwrite(self._fd, view, end - len(view)) :]
            if len(data) >= WRITE_OUT:
                # Linux starts to write these pages out, and keeps them cached: the disk works while the next block
                # is read and hashed, and the fsync at the end finds little to do.
                os.posix_fadvise(self._fd, offset, len(data), os.POSIX_FADV_DONTNEED)

    @traced("driver commit")
    def commit(self) -> None:
        """Make it durable, then visible under its object name, in one step and once.

        Raises Corrupt if its size is not the announced one, AlreadyExists if another blob took the name meanwhile,
        Refused if it was committed before, or swept because its job was taken for dead.
        """
        self._require_open()
        with self._told():
            length = os.fstat(self._fd).st_size
            if self._size is not None and length != self._size:
                raise Corrupt(
                    f"{self._target.name} was announced with {self._size} bytes, but {length} came: "
                    "start again from the source"
                )
            os.fchmod(self._fd, self._mode)
            os.fsync(self._fd)
            self._publish()
            sync_directory(self._target.parent)
        self.discard()

    def discard(self) -> None:
        """End it: close the file and remove its name in staging. A blob that was committed stays."""
        if self._ended:
            return
        self._ended = True
        os.close(self._fd)
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            # The outcome is decided already, and the next sweep tries again.
            log.warning("leftover %s stays until the next sweep: %s", self._path, error.strerror)

    def _publish(self) -> None:
        try:
            link(self._path, self._target)
        except FileExistsError:
            raise taken(self._target) from None
        except FileNotFoundError:
            raise _swept(self._target) from None

    def _require_open(self) -> None:
        if self._ended:
            raise Refused(f"{self._target.name} is not being written any more: stage it again")

    @contextmanager
    def _told(self) -> Iterator[None]:
        directory = self._target.parent
        with told(directory):
            try:
                yield
            except OSError as error:
                if error.errno == errno.ENOSPC and self._size is not None:
                    held = os.fstat(self._fd).st_blocks * 512
                    raise no_room(directory, self._size, held) from error
                raise


@contextmanager
def joined(path: Path, size: int) -> Iterator[StagedFile]:
    """Write to a staging that another process has begun, and will commit or remove. Raises Refused if it is gone."""
    with told(path.parent):
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _swept(path) from None
    try:
        yield StagedFile(fd, path, path, size, mode=0)
    finally:
        os.close(fd)


def link(path: Path, target: Path) -> None:
    """Give a file its second name: in one step, and never in place of another file, as a rename would.

    Raises FileExistsError, FileNotFoundError, and Refused where the file system has no hard links.
    """
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise Refused(
                f"the file system of {target.parent} has no hard links, by which a blob becomes visible in one step: "
                "choose a directory on another file system"
            ) from error
        raise


def taken(target: Path) -> AlreadyExists:
    """Return the error for an object name that holds a blob."""
    return AlreadyExists(
        f"{target} exists already, and a stored blob is never overwritten: choose another name or delete it first"
    )


def _swept(target: Path) -> Refused:
    return Refused(f"{target.name} was removed from staging, because its job was taken for dead: start the job again")


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
