"""What the operating system refuses, as our errors: one sentence each, with the path and what to do."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmarket.errors import FedmarketError, NoSpace, Refused, Unavailable

FULL = {
    errno.ENOSPC: "the file system is full: free space there or choose another place",
    errno.EDQUOT: "the disk quota is used up: raise it or choose another place",
    errno.EFBIG: "a file may not grow so large: raise the limit (ulimit -f) or choose another file system",
}
_REFUSED = {
    errno.EACCES: "is not accessible to the user of this agent (uid {uid}): change its owner or its permissions",
    errno.EPERM: "is not permitted to the user of this agent (uid {uid}): change its owner or its attributes",
    errno.EROFS: "is on a read-only file system: mount it writable or choose another directory",
    errno.ENOENT: "does not exist: create it, or mount the file system that holds it",
    errno.ENOTDIR: "is below something that is not a directory: choose another directory",
    errno.EEXIST: "is not a directory: remove it or choose another directory",
    errno.EISDIR: "is a directory where a blob should be: move it away",
    errno.ELOOP: "holds a symbolic link that is not followed: give the real path",
    errno.ENAMETOOLONG: "is too long a path: choose a shorter directory",
}


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Raise what goes wrong with `path` as NoSpace, Refused or Unavailable instead of OSError."""
    try:
        yield
    except OSError as error:
        raise fault(error, path) from error


def fault(error: OSError, path: Path) -> FedmarketError:
    """Return the error of our tree that an OSError on `path` stands for."""
    code = error.errno or 0
    if code in FULL:
        return NoSpace(f"nothing more can be written to {path}, because {FULL[code]}")
    if code in _REFUSED:
        return Refused(f"{path} {_REFUSED[code].format(uid=os.geteuid())}")
    return Unavailable(f"{path} cannot be used ({os.strerror(code)}): look into this host's kernel log, then try again")
