"""Images of this zone: import from a client, list, show, delete."""

import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from drivers.capabilities import OnDisk, Writable
from drivers.datastore.formats import ImageFormat, detect
from federation.draft import Draft
from federation.requests import Requests, Ticket
from federation.view import Found
from fedmarket.digests import Digests
from fedmarket.errors import BadInput, Cancelled, FedmarketError, NotFound, Refused
from fedmarket.failpoints import Failpoint, hit
from fedmarket.jsonview import enum_word
from fedmarket.names import check_name
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_KIND_IMPORT
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
from zone_agent.jobs import Job, Jobs, job_for, thing
from zone_agent.services.catalogs import Catalogs, edit, require, taken
from zone_agent.services.deletion import Deletion
from zone_agent.services.intake import Intake, take
from zone_agent.services.leftovers import clear, remove, try_to_clear
from zone_agent.services.locks import Operation, require_unlocked
from zone_agent.services.principal import DEFAULT_MODE, Principal
from zone_agent.stores import Stores

log = logging.getLogger(__name__)

NOBODY = -1
"""In place of the id of what is made from an image."""


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

    def __init__(self, catalogs: Catalogs, stores: Stores, jobs: Jobs, requests: Requests) -> None:
        self._catalogs = catalogs
        self._view = catalogs.view
        self._stores = stores
        self._jobs = jobs
        jobs.serve(JOB_KIND_IMPORT, "image", self)
        self._deletion = Deletion(catalogs, jobs, ImageRecord, _Deleted(catalogs, stores), requests)

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
        self._jobs.require_room()
        intake = Intake()
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

    # -- the image that a job makes

    def made_by(self, job: Job) -> Found[ImageRecord]:
        """Return the image that a job makes. Raises NotFound if it was deleted meanwhile."""
        image = self._view.get(ImageRecord, job.object_id)
        if image is None or image.record.uid != job.record.object.uid:
            raise NotFound(f"image {job.object_id} was deleted meanwhile: make it again if it is still wanted")
        return image

    def store_of(self, image: Found[ImageRecord]) -> object:
        """Return the driver of the datastore that an image is in."""
        return self._stores.datastore(self._view.resolve(DatastoreRecord, image.message.datastore_id))

    def check_made_again(self, job: Job) -> None:
        """Raise Refused if the image of a job that failed cannot be made again, NotFound if it is gone."""
        image = self.made_by(job)
        if image.message.state != IMAGE_STATE_ERROR:
            raise Refused(f"image {image.message.name!r} is not in ERROR: there is nothing to repeat")

    async def lock_again(self, job: Job) -> bool:
        """Clear what an earlier attempt stored, and lock the image again under a new object name; False: it is made."""
        image = self.made_by(job)
        if image.message.state not in {IMAGE_STATE_LOCKED, IMAGE_STATE_ERROR}:
            return False
        await clear(self.store_of(image), job.fence, image.message.object)
        fresh = secrets.token_hex(16)

        def lock(message: ImageRecord) -> None:
            message.state, message.object = IMAGE_STATE_LOCKED, fresh
            message.ClearField("error")

        await self._change(image.id, lock)
        return True

    async def ready(self, job: Job, name: str, digests: Digests, found: ImageFormat) -> None:
        """Make an image READY whose bytes are stored under an object name.

        Raises NotFound or Refused if that name is not its own any more; then the bytes are removed.
        """

        def change(message: ImageRecord) -> None:
            if message.state != IMAGE_STATE_LOCKED or message.object != name:
                raise Refused(f"image {message.name!r} was deleted, or is made by another agent: look at it")
            message.state = IMAGE_STATE_READY
            message.sha256, message.md5, message.size_bytes = digests.sha256, digests.md5, digests.size
            message.format, message.virtual_bytes = found.format.value, found.virtual_size
            message.modify_time = int(time.time())

        store = self.store_of(self.made_by(job))
        try:
            await self._change(job.object_id, change)
        except (NotFound, Refused):
            await try_to_clear(store, job.staging, name)
            raise

    async def fail(self, job: Job, error: FedmarketError) -> None:
        """Leave the image that a job was to make in ERROR, with the reason, and nothing of it stored."""

        def change(message: ImageRecord) -> None:
            if message.state != IMAGE_STATE_LOCKED:
                return  # it ended otherwise meanwhile
            message.state = IMAGE_STATE_ERROR
            message.error.CopyFrom(Failure(text=error.message, time=int(time.time())))

        try:
            await self._change(self.made_by(job).id, change)
            image = self.made_by(job)
            # It may have been published before its last commit failed.
            name = image.message.object if image.message.state == IMAGE_STATE_ERROR else ""
            await try_to_clear(self.store_of(image), job.fence, name)
        except NotFound:
            log.info("image %d was deleted while it was made", job.object_id)

    async def drop(self, image_id: int) -> None:
        """Remove an image whose job did not begin, with whatever was stored of it."""
        image = self.show(image_id)
        await remove(self.store_of(image), image.message.object)
        await self._catalogs.change(lambda draft: draft.delete(ImageRecord, image.id), private=True)

    # -- the image that something is made of

    async def hold(self, image_id: int, *, app: int = NOBODY, image: int = NOBODY) -> None:
        """Mark an image as in use by an app or image that is being made from it. Raises Refused, NotFound."""

        def change(message: ImageRecord) -> None:
            require_readable(image_id, message)
            message.state = IMAGE_STATE_USED
            for holders, holder in ((message.app_clones, app), (message.image_clones, image)):
                if holder != NOBODY and holder not in holders:
                    holders.append(holder)

        await self._change(image_id, change)

    async def release(self, image_id: int, *, app: int = NOBODY, image: int = NOBODY) -> None:
        """Let go of an image that something was made from; one that nobody holds is READY again."""

        def change(draft: Draft) -> None:
            record = draft.get(ImageRecord, image_id)
            if record is None:
                return
            message = record.message
            if app not in message.app_clones and image not in message.image_clones:
                return
            for holders, holder in ((message.app_clones, app), (message.image_clones, image)):
                if holder in holders:
                    holders.remove(holder)
            if not _held(message) and message.state == IMAGE_STATE_USED:
                message.state = IMAGE_STATE_READY
            draft.put(image_id, record)

        await self._catalogs.change(change, private=True)

    @uninterrupted
    async def delete(self, principal: Principal, ref: int | str, ticket: Ticket | None = None) -> int:
        """Delete an image with its bytes, and return its id. Raises Refused if it is in use.

        An export or a clone that makes it is cancelled first. If the bytes cannot be removed, that is raised, and the
        image stays, in state ERROR. The ticket notes the request that asks for it.
        """
        image = self.show(ref)
        require_unlocked(f"image {image.message.name!r}", image.message.lock, Operation.MANAGE)
        return await self._deletion.delete(principal, image, ticket)

    # -- imports, as `zone_agent.jobs.Work`: their clients do not outlive their agents

    def check_retry(self, job: Job) -> None:
        """Refuse: the bytes are the client's."""
        name = job.record.object.name
        raise Refused(f"the bytes of image {name!r} come from its client: delete the image, and import it again")

    async def resume(self, job: Job) -> bool:
        """Say that there is nothing to do where the image is whole. Raises Cancelled where it never will be."""
        if self.made_by(job).message.state == IMAGE_STATE_LOCKED:
            raise Cancelled("the agent ended in the middle of the import: delete the image, and import it again")
        return False

    async def run(self, job: Job) -> None:
        """Refuse: nobody sends."""
        self.check_retry(job)

    async def _import(
        self,
        principal: Principal,
        new: NewImage,
        datastore: Found[DatastoreRecord],
        chunks: AsyncIterator[bytes],
        intake: Intake,
    ) -> Found[ImageRecord]:
        """Import to the end, or undo to the end; only the intake of the bytes can be broken off."""
        image = self.show(await self.lock(principal, new, datastore))
        hit(Failpoint.IMPORT_LOCKED)
        record = job_for(JOB_KIND_IMPORT, thing(image), principal, store_id=datastore.id)
        try:
            job = await self._jobs.enter(record, intake.break_off)
        except FedmarketError:
            await self.drop(image.id)
            raise
        try:
            await intake.take(self._receive(job, image.message.object, new, datastore, chunks))
        except FedmarketError as error:
            await self._undo(job, error)
            raise
        await self._jobs.leave(job, None)
        return self.show(image.id)

    async def _receive(
        self, job: Job, name: str, new: NewImage, datastore: Found[DatastoreRecord], chunks: AsyncIterator[bytes]
    ) -> None:
        store = self._stores.datastore(datastore)
        if not isinstance(store, Writable):
            raise Refused(f"datastore {datastore.message.name!r} is read only: choose another one")
        async with staged(lambda: store.stage(name, job.staging, new.size)) as staging:
            digests, head = await take(staging, new.size, chunks, job)
            found = detect(head, new.size)
            hit(Failpoint.IMPORT_RECEIVED)
            await in_thread(staging.commit)
        hit(Failpoint.IMPORT_PUBLISHED)
        await self.ready(job, name, digests, found)
        hit(Failpoint.IMPORT_READY)

    async def _undo(self, job: Job, reason: FedmarketError) -> None:
        try:
            await self.drop(job.object_id)
        finally:
            await self._jobs.leave(job, reason)

    async def _change(self, image_id: int, change: Callable[[ImageRecord], None]) -> None:
        await self._catalogs.change(
            lambda draft: edit(draft, ImageRecord, image_id, "the image", change),
            private=True,
        )


def _held(message: ImageRecord) -> bool:
    """Say whether something is being made from an image."""
    return bool(message.app_clones or message.image_clones)


def require_readable(image_id: int, image: ImageRecord) -> None:
    """Raise Refused if an image cannot be read now."""
    if image.state not in {IMAGE_STATE_READY, IMAGE_STATE_USED}:
        word = enum_word(ImageState.DESCRIPTOR, image.state).upper()
        raise Refused(
            f"image {image.name!r} is {word}, and only one that is READY can be uploaded: "
            f"look at `fedmarket image show {image_id}`"
        )
    require_unlocked(f"image {image.name!r}", image.lock, Operation.USE)


class _Deleted:
    """What is particular to the delete of an image."""

    def __init__(self, catalogs: Catalogs, stores: Stores) -> None:
        self._view = catalogs.view
        self._stores = stores

    def mark(self, message: ImageRecord) -> None:
        require_unlocked(f"image {message.name!r}", message.lock, Operation.MANAGE)
        if _held(message):
            held = [f"app {app}" for app in message.app_clones] + [f"image {image}" for image in message.image_clones]
            raise Refused(
                f"image {message.name!r} is in use: {', '.join(held)} is being made from it, wait until it is done"
            )
        if message.state == IMAGE_STATE_LOCKED:
            raise Refused(f"image {message.name!r} is LOCKED: its bytes are still coming, wait until it is READY")
        message.state = IMAGE_STATE_DELETE

    def blame(self, message: ImageRecord, error: FedmarketError) -> None:
        if message.state == IMAGE_STATE_DELETE:
            message.state = IMAGE_STATE_ERROR
            text = f"it could not be deleted: {error.message}"
            message.error.CopyFrom(Failure(text=text, time=int(time.time())))

    async def remove(self, message: ImageRecord) -> None:
        datastore = self._view.resolve(DatastoreRecord, message.datastore_id)
        await remove(self._stores.datastore(datastore), message.object)
