"""What a market or a datastore can do, as small protocols: a read-only driver cannot be asked to write, by type.

Every method here may block (files, boto3, child processes) and is called in worker threads, never on the event loop.
An object name is the driver's own name for one stored blob: flat, `[A-Za-z0-9._-]+`, chosen by the caller, unique.
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
    """One blob on its way in, invisible until committed. Leaving its context without a commit removes what was written."""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write at a byte offset. Raises NoSpace when the store is full."""
        ...

    def commit(self) -> None:
        """Make it durable, then visible under its object name, in one step. Raises Corrupt if its size is not the announced one."""
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
        """Raise Refused, in one sentence, if nothing could be written here (missing, not a directory, not permitted)."""
        ...

    def stage(self, name: str, fence: str, size: int) -> AbstractContextManager[Staging]:
        """Begin to store a blob of `size` bytes. `fence` names the job, so that a sweep knows whose leftovers are whose.

        Raises NoSpace if it cannot fit.
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
