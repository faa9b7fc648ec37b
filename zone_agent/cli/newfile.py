"""A file that appears when it is whole."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fedmarket.errors import AlreadyExists, BadInput, NoSpace


@contextmanager
def new_file(path: Path, *, overwrite: bool, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Write a file beside `path`, which takes its place at the end if nothing was raised; the umask is off its mode.

    Raises AlreadyExists if it is there and not to be overwritten, NoSpace or BadInput if it cannot be written.
    """
    _refuse_target(path, overwrite)
    with _writing(path):
        part = path.with_name(f"{path.name}.part-{secrets.token_hex(4)}")
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                _refuse_target(path, overwrite)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        _sync(path.parent)


def _refuse_target(path: Path, overwrite: bool) -> None:
    if not (path.exists() or path.is_symlink()):
        return
    if not path.is_file():
        raise BadInput(f"{path} is not a file: give the name of one, or - for stdout")
    if not overwrite:
        raise AlreadyExists(f"{path} exists: choose another name, or replace it with --force")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoSpace(f"{path} cannot be written ({error.strerror}): make room, and try again") from error
        raise BadInput(f"{path} cannot be written ({error.strerror}): choose another place") from error


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
