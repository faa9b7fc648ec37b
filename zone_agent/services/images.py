"""Images of this zone: import from a client, list, show, delete."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from drivers.capabilities import Deletable, OnDisk, Staging, Writable
from drivers.datastore.formats import HEADER_BYTES, ImageFormat, detect
from federation.draft import Draft
from federation.view import Found
from fedmarket.digests import Digests
from fedmarket.errors import BadInput, Cancelled, Corrupt, FedmarketError, Refused
from fedmarket.names import check_name
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    DATASTORE_STATE_READY,
    IMAGE_STATE_DELETE,
    IMAGE_STATE_ERROR,
    IMAGE_STATE_LOCKED,
    IMAGE_STATE_READY,
    IMAGE_STATE_USED,
    DatastoreRecord,
    Failure,
    ImageRecord,
    ImageState,
    ImageType,
)
from fedmarket.threads import in_thread, staged, to_the_end, uninterrupted
from zone_agent.jobs import Job, JobKind, Jobs, fence_of
from zone_agent.services.catalogs import Catalogs, edit, require, taken
from zone_agent.services.principal import DEFAULT_MODE, Principal
from zone_agent.stores import Stores
from zone_agent.transfer.spool import Spool


@dataclass(frozen=True, slots=True)
class NewImage:
    """What is said of an image before its bytes come."""

    name: str
    datastore: int | str
    size: int
    path: str = ""
    """The file's name where it came from; information only."""
    type: ImageType.ValueType = ImageType.IMAGE_TYPE_OS


class ImageService:
    """The use cases of images."""

    def __init__(self, catalogs: Catalogs, stores: Stores, jobs: Jobs) -> None:
        self._catalogs = catalogs
        self._view = catalogs.view
        self._stores = stores
        self._jobs = jobs

    def list(self, after: int, limit: int) -> Sequence[Found[ImageRecord]]:
        """Return a page of this zone's images."""
        return self._view.page(ImageRecord, after, limit)

    def show(self, ref: int | str) -> Found[ImageRecord]:
        """Return one image. Raises NotFound."""
        return self._view.resolve(ImageRecord, ref)

    def source(self, image: Found[ImageRecord]) -> str:
        """Return where an image is kept; empty if its datastore keeps no files."""
        datastore = self._view.get(DatastoreRecord, image.message.datastore_id)
        store = self._stores.datastore(datastore) if datastore else None
        return str(store.path(image.message.object)) if isinstance(store, OnDisk) and image.message.object else ""

    async def import_stream(
        self, principal: Principal, new: NewImage, chunks: AsyncIterator[bytes]
    ) -> Found[ImageRecord]:
        """Store what a client streams. If it breaks off, or is not `new.size` bytes, nothing is left of it."""
        if new.size <= 0:
            raise BadInput("an image needs at least one byte: give a file that is not empty")
        datastore = self._view.resolve(DatastoreRecord, new.datastore)
        intake = _Intake()
        return await to_the_end(self._import(principal, new, datastore, chunks, intake), intake.break_off)

    async def lock(
        self, principal: Principal, new: NewImage, datastore: Found[DatastoreRecord], **template: str
    ) -> int:
        """Commit an image that is LOCKED until its bytes are here; return its id. Raises AlreadyExists, BadInput."""
        check_name(new.name, "image")
        if new.type not in ImageType.values():
            raise BadInput(
                f"there is no image type {new.type}: choose one of those that `fedmarket image import` knows"
            )
        if datastore.message.state != DATASTORE_STATE_READY:
            raise Refused(f"datastore {datastore.message.name!r} is not in zone.toml any more: choose another one")
        store = self._stores.datastore(datastore)
        if not isinstance(store, Writable):
            raise Refused(f"datastore {datastore.message.name!r} is read only: choose another one")
        await in_thread(store.check)
        now = int(time.time())
        message = ImageRecord(
            name=new.name,
            owner=principal.owner(),
            mode=DEFAULT_MODE,
            register_time=now,
            modify_time=now,
            datastore_id=datastore.id,
            state=IMAGE_STATE_LOCKED,
            type=new.type,
            path=new.path[:1024],
            object=secrets.token_hex(16),
            size_bytes=new.size,
        )
        for name, value in template.items():
            message.template.attributes.add(name=name, value=value)

        def change(draft: Draft) -> int:
            require(draft, DatastoreRecord, datastore.id, "the datastore")
            for image_id, record in draft.named(ImageRecord, new.name):
                if record.message.owner.uid == principal.uid:
                    raise taken("image", new.name, image_id, self._view.zone_name(self._view.zone))
            return draft.create(message)

        return await self._catalogs.change(change, private=True)

    async def ready(self, image_id: int, digests: Digests, found: ImageFormat) -> None:
        """Make an image READY whose bytes are stored."""

        def change(message: ImageRecord) -> None:
            message.state = IMAGE_STATE_READY
            message.sha256, message.md5, message.size_bytes = digests.sha256, digests.md5, digests.size
            message.format, message.virtual_bytes = found.format.value, found.virtual_size
            message.modify_time = int(time.time())

        await self._change(image_id, change)

    async def fail(self, image_id: int, error: FedmarketError) -> None:
        """Leave an image in ERROR, with the reason."""

        def change(message: ImageRecord) -> None:
            if message.state != IMAGE_STATE_LOCKED:
                return  # it ended otherwise meanwhile
            message.state = IMAGE_STATE_ERROR
            message.error.CopyFrom(Failure(text=error.message, time=int(time.time())))

        await self._change(image_id, change)

    async def drop(self, image_id: int) -> None:
        """Remove an image whose job did not begin, with whatever was stored of it."""
        await self._remove(self.show(image_id))

    async def release(self, image_id: int, app_id: int) -> None:
        """Let go of an image that an app was made from; one that nobody holds is READY again."""

        def change(draft: Draft) -> None:
            record = draft.get(ImageRecord, image_id)
            if record is None or app_id not in record.message.app_clones:
                return
            record.message.app_clones.remove(app_id)
            if not record.message.app_clones and record.message.state == IMAGE_STATE_USED:
                record.message.state = IMAGE_STATE_READY
            draft.put(image_id, record)

        await self._catalogs.change(change, private=True)

    async def hold(self, image_id: int, app_id: int) -> None:
        """Mark an image as in use by an app that is being made from it. Raises Refused, NotFound."""

        def change(message: ImageRecord) -> None:
            require_readable(image_id, message)
            message.state = IMAGE_STATE_USED
            message.app_clones.append(app_id)

        await self._change(image_id, change)

    @uninterrupted
    async def delete(self, ref: int | str) -> int:
        """Delete an image with its bytes, and return its id. Raises Refused if it is in use."""
        image = self.show(ref)
        await self._jobs.cancel(fence_of(JobKind.EXPORT, image.id))

        def mark(message: ImageRecord) -> None:
            if message.app_clones:
                apps = ", ".join(map(str, message.app_clones))
                raise Refused(
                    f"image {message.name!r} is in use: app {apps} is being made from it, wait until it is done"
                )
            if message.state == IMAGE_STATE_LOCKED:
                raise Refused(f"image {message.name!r} is LOCKED: its bytes are still coming, wait until it is READY")
            message.state = IMAGE_STATE_DELETE

        await self._change(image.id, mark)
        await self._remove(image)
        return image.id

    async def _import(
        self,
        principal: Principal,
        new: NewImage,
        datastore: Found[DatastoreRecord],
        chunks: AsyncIterator[bytes],
        intake: "_Intake",
    ) -> Found[ImageRecord]:
        """Import to the end, or undo to the end; only the intake of the bytes can be broken off."""
        image_id = await self.lock(principal, new, datastore)
        job = Job(JobKind.IMPORT, image_id)
        try:
            await self._jobs.enter(job)
            await intake.take(self._receive(job, self.show(image_id).message.object, new, datastore, chunks))
        except FedmarketError as error:
            await self._undo(job, error)
            raise
        await self._jobs.leave(job, None)
        return self.show(image_id)

    async def _receive(
        self, job: Job, name: str, new: NewImage, datastore: Found[DatastoreRecord], chunks: AsyncIterator[bytes]
    ) -> None:
        store = self._stores.datastore(datastore)
        if not isinstance(store, Writable):
            raise Refused(f"datastore {datastore.message.name!r} is read only: choose another one")
        async with staged(lambda: store.stage(name, job.fence, new.size)) as staging:
            digests, head = await _take(staging, new.size, chunks, job)
            found = detect(head, new.size)
            await in_thread(staging.commit)
        await self.ready(job.object_id, digests, found)

    async def _undo(self, job: Job, reason: FedmarketError) -> None:
        try:
            await self.drop(job.object_id)
        finally:
            await self._jobs.leave(job, reason)

    async def _remove(self, image: Found[ImageRecord]) -> None:
        """Remove the bytes, then the record."""
        store = self._stores.datastore(self._view.resolve(DatastoreRecord, image.message.datastore_id))
        if image.message.object and isinstance(store, Deletable):
            name = image.message.object
            await in_thread(lambda: store.delete(name))
        await self._catalogs.change(lambda draft: draft.delete(ImageRecord, image.id), private=True)

    async def _change(self, image_id: int, change: Callable[[ImageRecord], None]) -> None:
        await self._catalogs.change(
            lambda draft: edit(draft, ImageRecord, image_id, "the image", change),
            private=True,
        )


def require_readable(image_id: int, image: ImageRecord) -> None:
    """Raise Refused if an image cannot be read now."""
    if image.state not in {IMAGE_STATE_READY, IMAGE_STATE_USED}:
        word = ImageState.Name(image.state).removeprefix("IMAGE_STATE_")
        raise Refused(
            f"image {image.name!r} is {word}, and only one that is READY can be uploaded: "
            f"look at `fedmarket image show {image_id}`"
        )


class _Intake:
    """The part of an import that waits for its client."""

    def __init__(self) -> None:
        self._gone = False
        self._taking: asyncio.Future[None] | None = None

    def break_off(self) -> None:
        """Stop: the client has gone."""
        self._gone = True
        if self._taking is not None:
            self._taking.cancel()

    async def take(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work, unless or until it is broken off. Raises Cancelled."""
        self._taking = asyncio.ensure_future(work)
        if self._gone:
            self._taking.cancel()
        try:
            await self._taking
        except asyncio.CancelledError:
            raise Cancelled("the import was broken off: start it again") from None


async def _take(staging: Staging, size: int, chunks: AsyncIterator[bytes], job: Job) -> tuple[Digests, bytes]:
    """Write and hash what comes; return its digests and its first bytes."""
    head = b""
    done = 0
    job.begin("receiving", size)
    async with Spool(staging.write, md5=True) as spool:
        async for chunk in chunks:
            if done + len(chunk) > size:
                raise Corrupt(f"more than the announced {size} bytes came: import a file that nothing writes to")
            if len(head) < HEADER_BYTES:
                head += chunk[: HEADER_BYTES - len(head)]
            await spool.put(chunk)
            done += len(chunk)
            job.progress(done)
        if done != size:
            raise Corrupt(f"only {done} of the announced {size} bytes came: import a file that nothing writes to")
        return await spool.finish(), head
