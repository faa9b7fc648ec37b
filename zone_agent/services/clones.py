"""Copying an image of this zone into a new one, which has nothing to do with it from then on."""

from drivers.capabilities import Readable, Writable
from drivers.datastore.formats import Format, ImageFormat
from federation.view import Found
from fedmarket.errors import Corrupt, FedmarketError, NotFound, Refused
from fedmarket.failpoints import Failpoint, hit
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_KIND_CLONE
from fedmarket.pb.fedmarket.v1.record_pb2 import DatastoreRecord, ImageRecord
from fedmarket.threads import in_thread, staged, uninterrupted
from zone_agent.jobs import Job, Jobs, job_for, thing
from zone_agent.services.catalogs import Catalogs
from zone_agent.services.images import ImageService, NewImage, require_readable
from zone_agent.services.mover import Mover
from zone_agent.services.principal import Principal


class CloneService:
    """The use case, and what does its jobs: see `zone_agent.jobs.Work`."""

    def __init__(self, catalogs: Catalogs, jobs: Jobs, images: ImageService, mover: Mover) -> None:
        self._view = catalogs.view
        self._jobs = jobs
        self._images = images
        self._mover = mover
        jobs.serve(JOB_KIND_CLONE, "image", self)

    @uninterrupted
    async def clone(
        self, principal: Principal, image_ref: int | str, name: str, datastore_ref: int | str | None
    ) -> tuple[Found[ImageRecord], Job]:
        """Begin to copy an image: the new one is LOCKED until the job has ended.

        Without a datastore it is where the first one is. Raises Refused if that cannot be read now, AlreadyExists.
        """
        source = self._images.show(image_ref)
        require_readable(source.id, source.message)
        of = source.message
        datastore = self._view.resolve(DatastoreRecord, of.datastore_id if datastore_ref is None else datastore_ref)
        self._jobs.require_room()
        new = NewImage(name, datastore.id, of.size_bytes, path=of.path, type=of.type)
        image = self._images.show(await self._images.lock(principal, new, datastore))
        hit(Failpoint.CLONE_LOCKED)
        try:
            await self._images.hold(source.id, image=image.id)
            hit(Failpoint.CLONE_HELD)
            record = job_for(JOB_KIND_CLONE, thing(image), principal, source=thing(source), store_id=datastore.id)
            job = await self._jobs.start(record)
        except FedmarketError:
            await self._images.drop(image.id)
            await self._images.release(source.id, image=image.id)
            raise
        return image, job

    def check_retry(self, job: Job) -> None:
        """Raise Refused or NotFound if one of the two is not there, or is not what it was."""
        self._images.check_made_again(job)
        source = self._source(job)
        require_readable(source.id, source.message)

    async def resume(self, job: Job) -> bool:
        """Lock the new image, and hold the other one, again."""
        again = await self._images.lock_again(job)
        if again:
            await self._images.hold(self._source(job).id, image=job.object_id)
        else:
            await self._release(job)
        return again

    async def run(self, job: Job) -> None:
        """Copy the bytes, publish them, and make the new image READY."""
        image, source = self._images.made_by(job), self._source(job).message
        reading, writing = self._images.store_of(self._source(job)), self._images.store_of(image)
        if not isinstance(reading, Readable) or not isinstance(writing, Writable):
            raise Refused("this datastore cannot be read, or that one not written: choose others")
        name, size = image.message.object, source.size_bytes
        job.begin("hashing", size)
        async with staged(lambda: writing.stage(name, job.staging, size)) as staging:
            digests = await self._mover.copy(reading, source.object, size, staging, job)
            if source.sha256 and source.sha256 != digests.sha256:
                raise Corrupt(
                    f"the bytes of image {source.name!r} are not those that were imported: import it again under "
                    "another name"
                )
            hit(Failpoint.CLONE_COPIED)
            job.begin("publishing", size)
            await in_thread(staging.commit)
        hit(Failpoint.CLONE_PUBLISHED)
        # First, so that whoever sees the new one READY can delete the other.
        await self._release(job)
        hit(Failpoint.CLONE_RELEASED)
        await self._images.ready(job, name, digests, ImageFormat(Format(source.format), source.virtual_bytes))
        hit(Failpoint.CLONE_READY)

    async def fail(self, job: Job, error: FedmarketError) -> None:
        """Leave the new image in ERROR, with the reason, and the other one free."""
        try:
            await self._images.fail(job, error)
        finally:
            await self._release(job)

    async def _release(self, job: Job) -> None:
        await self._images.release(job.record.source.id, image=job.object_id)

    def _source(self, job: Job) -> Found[ImageRecord]:
        of = job.record.source
        source = self._view.get(ImageRecord, of.id)
        if source is None or source.record.uid != of.uid:
            raise NotFound(f"image {of.id}, which was to be copied, was deleted meanwhile: clone another one")
        return source
