"""What a market or a datastore can do, as small protocols: a read-only driver cannot be asked to write, by type.

Every method here may block (files, boto3, child processes) and is called in worker threads, never on the event loop.
An object name is the driver's own name for one stored blob: flat, chosen by the caller, unique (see drivers/names.py).
`drivers/testkit` holds each of these promises as tests that any driver can run.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Usage:
    """Space of a store, in MiB."""

    total_mb: int
    free_mb: int
    used_mb: int


class Staging(Protocol):
    """One blob on its way in, invisible until committed. Leaving its context without a commit removes it."""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write at a byte offset, in any order; several threads may write at once.

        Raises NoSpace when the store is full, Corrupt beyond the announced size.
        """
        ...

    def commit(self) -> None:
        """Make it durable, then visible under its object name, in one step and once.

        Raises Corrupt if its size is not the announced one, AlreadyExists if another blob took the name meanwhile,
        Refused if it was committed before, or swept because its job was taken for dead.
        """
        ...


class FileStaging(Staging, Protocol):
    """A staging that is a file of this host, so that a program like qemu-img can write it."""

    @property
    def path(self) -> Path:
        """Where the bytes are until the commit."""
        ...


@runtime_checkable
class Readable(Protocol):
    """Blobs can be read here."""

    def open(self, name: str) -> BinaryIO:
        """Open a blob for reading. Raises NotFound."""
        ...


@runtime_checkable
class Writable(Protocol):
    """Blobs can be stored here."""

    def check(self) -> None:
        """Raise Refused if nothing could be written here (missing, not a directory, not permitted)."""
        ...

    def stage(self, name: str, fence: str, size: int) -> AbstractContextManager[Staging]:
        """Begin to store a blob of `size` bytes.

        `fence` names the job, so that a sweep knows whose leftovers are whose. Raises NoSpace if it cannot fit,
        AlreadyExists if the name is taken: a stored blob is never overwritten.
        """
        ...

    def sweep(self, running: Callable[[str], bool]) -> int:
        """Remove what unfinished jobs left in staging, except those whose fence is `running`; return how many."""
        ...


@runtime_checkable
class Deletable(Protocol):
    """Blobs can be removed here."""

    def delete(self, name: str) -> None:
        """Remove a blob; one that is not there is already removed."""
        ...


@runtime_checkable
class Sized(Protocol):
    """The store knows its space."""

    def usage(self) -> Usage:
        """Measure it now."""
        ...


@runtime_checkable
class Published(Protocol):
    """Blobs have a URL of their own that answers ranged GETs, without the agent."""

    def public_url(self, name: str) -> str | None:
        """Return the URL, or None where this market has none and the agent serves the bytes itself."""
        ...


@runtime_checkable
class OnDisk(Protocol):
    """Blobs are files of this host."""

    def path(self, name: str) -> Path:
        """Return where the blob is, or would be. Raises BadInput for a name that is not an object name."""
        ...

    def stage_file(self, name: str, fence: str) -> AbstractContextManager[FileStaging]:
        """Begin a blob that a program writes at the staging's path; its size is whatever is there at the commit."""
        ...
