"""A transfer, from its task to its end, in whatever process: a file is filled, and its digests are told."""

from collections.abc import Callable
from pathlib import Path
from threading import Event

from drivers.copy import BLOCK, copy_blob
from drivers.datastore.convert import ConvertSettings, convert
from drivers.datastore.formats import HEADER_BYTES, Format
from drivers.files import open_file
from drivers.staging import joined
from fedmarket.digests import Digests, Hasher
from fedmarket.pb.fedmarket.v1.worker_pb2 import ConvertTask, CopyTask, FetchTask, TransferDone, TransferTask
from fedmarket.threads import in_thread, staged

Progress = Callable[[int], None]
"""Is given the bytes done so far, from any thread."""


async def perform(task: TransferTask, progress: Progress) -> TransferDone:
    """Do a task, and return what its target is now. Raises what `copy_blob`, `fetch` and `convert` raise."""
    match task.WhichOneof("task"):
        case "copy":
            return await _in_thread(lambda cancelled: _copy(task.copy, progress, cancelled))
        case "fetch":
            return await _fetch(task.fetch, progress)
        case _:
            return await _in_thread(lambda cancelled: _convert(task.convert, progress, cancelled))


async def _in_thread(work: Callable[[Event], TransferDone]) -> TransferDone:
    cancelled = Event()
    return await in_thread(lambda: work(cancelled), cancelled.set)


def _copy(task: CopyTask, progress: Progress, cancelled: Event) -> TransferDone:
    target = Path(task.target)
    with (
        open_file(Path(task.source)) as source,
        joined(target, task.size_bytes) as staging,
        Hasher(md5=task.md5) as hasher,
    ):
        digests = copy_blob(source, task.size_bytes, staging, hasher, progress, cancelled.is_set)
    return _done(digests, target)


async def _fetch(task: FetchTask, progress: Progress) -> TransferDone:
    # Loaded here: an HTTP client takes a third of a second to load, and a copy on this host needs none.
    from zone_agent.transfer.worker.remote import fetch_urls  # noqa: PLC0415

    target = Path(task.target)
    async with staged(lambda: joined(target, task.size_bytes)) as staging:
        await fetch_urls(task, staging.write, progress)
    return await in_thread(lambda: _done(Digests(task.sha256, b"", task.size_bytes), target))


def _convert(task: ConvertTask, progress: Progress, cancelled: Event) -> TransferDone:
    target = Path(task.target)
    convert(
        Path(task.source),
        Format(task.source_format),
        target,
        Format(task.target_format),
        progress=lambda fraction: progress(int(task.size_bytes * fraction)),
        cancelled=cancelled.is_set,
        settings=ConvertSettings(timeout=task.seconds),
    )
    with open_file(target) as file, Hasher() as hasher:
        while block := file.read(BLOCK):
            hasher.update(block)
        return _done(hasher.finish(), target)


def _done(digests: Digests, target: Path) -> TransferDone:
    with open_file(target) as file:
        head = file.read(HEADER_BYTES)
    return TransferDone(sha256=digests.sha256, md5=digests.md5, size_bytes=digests.size, head=head)
