"""A directory of blobs: what the http market and the fs datastore have in common."""

import errno
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from drivers.capabilities import Usage
from drivers.faults import told
from drivers.names import check_fence, check_object_name
from drivers.space import require_space, usage_of
from drivers.staging import StagedFile, link, sync_directory, taken
from fedmarket.errors import AlreadyExists, NotFound, Refused
from fedmarket.telemetry import traced

STAGING = ".staging"


class BlobDirectory:
    """Blobs as files of one directory, which is made when it is first needed.

    What is being written lies below `.staging` in it, on the same file system, as `<object name>.<fence>`.
    """

    def __init__(self, root: Path, *, file_mode: int) -> None:
        self.root = root
        self._staging = root / STAGING
        self._file_mode = file_mode

    def path(self, name: str) -> Path:
        """Return where the blob is, or would be. Raises BadInput for a name that is not an object name."""
        return self.root / check_object_name(name)

    @traced("driver open")
    def open(self, name: str) -> BinaryIO:
        """Open a blob for reading. Raises NotFound, also for anything that is not a regular file."""
        return open_file(self.path(name))

    @traced("driver check")
    def check(self) -> None:
        """Write, link and remove a probe. Raises Refused or NoSpace in one sentence that names the directory."""
        self._make()
        probe = self._staging / f"probe.{secrets.token_hex(8)}"
        linked = probe.with_name(f"linked-{probe.name}")
        with told(self.root):
            try:
                probe.touch(mode=0o600)
                link(probe, linked)
            finally:
                probe.unlink(missing_ok=True)
                linked.unlink(missing_ok=True)

    @traced("driver stage")
    def stage(self, name: str, fence: str, size: int) -> StagedFile:
        """Begin to store a blob of `size` bytes, whose space is reserved now.

        Raises NoSpace, AlreadyExists, and Refused where nothing can be written.
        """
        staged = self._stage(name, fence, size)
        try:
            with told(self.root):
                require_space(self.root, size)
            staged.reserve()
        except BaseException:
            staged.discard()
            raise
        return staged

    @traced("driver stage")
    def stage_file(self, name: str, fence: str) -> StagedFile:
        """Begin a blob that a program writes at the staging's path; its size is whatever is there at the commit."""
        return self._stage(name, fence, None)

    @traced("driver delete")
    def delete(self, name: str) -> None:
        """Remove a blob; one that is not there is already removed. Raises Refused if the directory is missing."""
        path = self.path(name)
        with told(path):
            path.unlink(missing_ok=True)
        with told(self.root):
            # Fails if there is no directory, which is no proof that the blob is gone: it may not be mounted.
            sync_directory(self.root)

    def usage(self) -> Usage:
        """Measure the file system that the directory is on."""
        with told(self.root):
            return usage_of(self.root)

    def sweep(self, running: Callable[[str], bool]) -> int:
        """Remove what unfinished jobs left in staging, except those whose fence is `running`; return how many."""
        swept = 0
        with told(self._staging):
            if not self._staging.exists():
                return 0
            for entry in self._staging.iterdir():
                if entry.is_dir() or running(entry.name.rpartition(".")[2]):
                    continue
                entry.unlink(missing_ok=True)
                swept += 1
        return swept

    def _stage(self, name: str, fence: str, size: int | None) -> StagedFile:
        target = self.path(name)
        path = self._staging / f"{name}.{check_fence(fence)}"
        self._make()
        with told(self.root):
            if os.path.lexists(target):
                raise taken(target)
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                raise AlreadyExists(
                    f"{name} is being written by the same job already, or was left by it: "
                    f"wait until that ends, or sweep {self._staging}"
                ) from None
        return StagedFile(fd, path, target, size, self._file_mode)

    def _make(self) -> None:
        """Make both directories if they are missing, with the same permissions whatever the umask."""
        for directory, mode in ((self.root, 0o755), (self._staging, 0o700)):
            with told(directory):
                if not directory.is_dir():
                    directory.mkdir(parents=True, exist_ok=True)
                    directory.chmod(mode)
        with told(self.root):
            if self._staging.is_symlink():
                raise Refused(f"{self._staging} is a symbolic link: remove it, so that a directory can be made there")
            # Staging may still be open to us where the directory no longer is: say so now, not after the last byte.
            if not os.access(self.root, os.W_OK | os.X_OK, effective_ids=True):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading. Raises NotFound, also for anything that is not a regular file."""
    with told(path):
        try:
            # O_NONBLOCK: a FIFO that someone put here must not hang us; on a regular file it means nothing.
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ELOOP}:
                raise _no_blob(path) from None
            raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _no_blob(path)
    return os.fdopen(fd, "rb")


def _no_blob(path: Path) -> NotFound:
    return NotFound(f"there is no blob {path.name} in {path.parent}: it was deleted, or never stored there")
