"""Moving bytes: the three steps of jobs that take long, each from plain values to digests, and no catalog in sight.

The bytes move in a process of their own (docs/adr/0013), between files of this host or from URLs into one. What begins
a staging here also ends it here, whatever becomes of that process.
"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from drivers.capabilities import OnDisk, Readable, Staging
from drivers.datastore.convert import ConvertSettings
from drivers.datastore.formats import Format, ImageFormat, detect
from fedmarket.digests import Digests
from fedmarket.errors import Refused
from fedmarket.pb.fedmarket.v1.worker_pb2 import ConvertTask, CopyTask, FetchTask, TransferDone, TransferTask
from fedmarket.telemetry import child
from zone_agent.jobs import Job
from zone_agent.transfer.settings import TransferSettings

CHUNK = 1 << 20
"""Bytes read at a time."""

Transfer = Callable[[TransferTask, Callable[[int], None]], Awaitable[TransferDone]]
"""Does a task, and tells the bytes done so far: Workers, or `perform` in this process."""


class Mover:
    """Copies, fetches and converts. Nothing is published here: whoever staged the bytes does that."""

    def __init__(self, do: Transfer, transfer: TransferSettings, conversion: ConvertSettings) -> None:
        self._do = do
        self._transfer = transfer
        self._conversion = conversion

    def limit(self, transfer: TransferSettings, conversion: ConvertSettings) -> None:
        """Bound what begins from now on by other limits."""
        self._transfer, self._conversion = transfer, conversion

    async def copy(self, source: Readable, name: str, size: int, staging: Staging, job: Job) -> Digests:
        """Copy a blob of `size` bytes into a staging, and return its digests."""
        if not isinstance(source, OnDisk):
            raise Refused(f"{name} is no file of this host, and only files can be copied: export the app instead")
        task = CopyTask(source=str(source.path(name)), target=str(_file(staging)), size_bytes=size, md5=True)
        return _digests(await self._move("transfer copy", TransferTask(copy=task), job))

    async def fetch(self, urls: Sequence[str], size: int, sha256: bytes, staging: Staging, job: Job) -> ImageFormat:
        """Pull a blob into a staging, verified, and say what it is. Raises Corrupt, Unavailable."""
        task = FetchTask(
            urls=urls,
            target=str(_file(staging)),
            size_bytes=size,
            sha256=sha256,
            connect_seconds=self._transfer.connect_seconds,
            idle_seconds=self._transfer.idle_seconds,
        )
        done = await self._move("transfer fetch", TransferTask(fetch=task), job)
        return detect(done.head, size)

    async def convert(
        self, source: Path, found: ImageFormat, target: Path, wanted: Format, job: Job
    ) -> tuple[Digests, ImageFormat]:
        """Convert a verified file into another, and return the digests of that and what it is."""
        task = ConvertTask(
            source=str(source),
            source_format=found.format,
            target=str(target),
            target_format=wanted,
            size_bytes=found.virtual_size,
            seconds=self._conversion.timeout,
        )
        done = await self._move("transfer convert", TransferTask(convert=task), job)
        return _digests(done), detect(done.head, done.size_bytes)

    async def _move(self, name: str, task: TransferTask, job: Job) -> TransferDone:
        with child(name):  # the process that does it tells no spans of its own
            return await self._do(task, job.progress)


def _file(staging: Staging) -> Path:
    """Return the file that a staging is."""
    path = getattr(staging, "path", None)
    if not isinstance(path, Path):
        raise Refused("this store keeps no files, and only files can be filled: choose another one")
    return path


def _digests(done: TransferDone) -> Digests:
    return Digests(done.sha256, done.md5, done.size_bytes)
