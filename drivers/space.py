"""Space on a file system: measured, and reserved before the first byte."""

import ctypes
import errno
import os
from pathlib import Path

from drivers.capabilities import Usage
from fedmarket.errors import NoSpace
from fedmarket.units import MIB, human_size

_FALLOC_FL_KEEP_SIZE = 1  # linux/falloc.h
_CANNOT_RESERVE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})

# os.posix_fallocate is not used: where a file system cannot reserve (NFS before 4.2), glibc writes a byte into every
# block instead, which takes as long as the copy itself.
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def usage_of(directory: Path) -> Usage:
    """Measure the whole file system of a directory, as OpenNebula's monitor does with df."""
    stat = os.statvfs(directory)
    total, free, available = (blocks * stat.f_frsize // MIB for blocks in (stat.f_blocks, stat.f_bfree, stat.f_bavail))
    return Usage(total_mb=total, free_mb=available, used_mb=total - free)


def free_bytes(directory: Path) -> int:
    """Return the bytes that this user may still write below a directory."""
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize


def require_space(directory: Path, size: int) -> None:
    """Raise NoSpace if a blob of `size` bytes does not fit into what is free now."""
    if size > free_bytes(directory):
        raise no_room(directory, size)


def no_room(directory: Path, size: int, held: int = 0) -> NoSpace:
    """Return the error for a blob of `size` bytes, `held` of which are on the disk but will be given back."""
    free = free_bytes(directory) + held
    return NoSpace(
        f"a blob of {human_size(size)} does not fit into {directory}, where {human_size(free)} are free: "
        f"free another {human_size(max(size - free, 0))} there or choose another place"
    )


def reserve(fd: int, size: int) -> None:
    """Reserve the blocks of the first `size` bytes of a file, whose length stays as it is.

    Does nothing on a file system that cannot reserve. Raises OSError (ENOSPC, EDQUOT, EFBIG) if they are not there.
    """
    if size == 0:
        return
    while _fallocate(fd, _FALLOC_FL_KEEP_SIZE, 0, size) != 0:
        code = ctypes.get_errno()
        if code in _CANNOT_RESERVE:
            return
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
