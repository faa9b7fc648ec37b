"""Bringing an app's bytes here: export into a datastore of this zone, download to whoever asks."""

from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp

from drivers.capabilities import OnDisk, Staging, Writable
from drivers.datastore.convert import ConvertSettings
from drivers.datastore.formats import Format, ImageFormat
from federation.view import Found
from fedmarket.digests import Digests
from fedmarket.errors import BadInput, FedmarketError, NotFound, Refused
from fedmarket.failpoints import Failpoint, hit
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_KIND_EXPORT
from fedmarket.pb.fedmarket.v1.record_pb2 import AppRecord, DatastoreRecord, ImageRecord
from fedmarket.threads import in_thread, staged, uninterrupted
from zone_agent.jobs import Job, Jobs, job_for, thing
from zone_agent.services.catalogs import Catalogs
from zone_agent.services.images import ImageService, NewImage
from zone_agent.services.locate import Locator, require_ready
from zone_agent.services.mover import CHUNK, Mover
from zone_agent.services.principal import Principal
from zone_agent.transfer.relay import stream
from zone_agent.transfer.settings import TransferSettings


class ExportService:
    """The use cases that read apps of any zone. Does the jobs that export them: see `zone_agent.jobs.Work`."""

    def __init__(
        self,
        catalogs: Catalogs,
        jobs: Jobs,
        images: ImageService,
        locator: Locator,
        mover: Mover,
        session: aiohttp.ClientSession,
        transfer: TransferSettings,
    ) -> None:
        self._view = catalogs.view
        self._jobs = jobs
        self._images = images
        self._locator = locator
        self._mover = mover
        self._session = session
        self._transfer = transfer
        jobs.serve(JOB_KIND_EXPORT, "image", self)

    def limit(self, transfer: TransferSettings, conversion: ConvertSettings) -> None:
        """Bound what begins from now on by other limits."""
        self._transfer = transfer
        self._mover.limit(transfer, conversion)

    @uninterrupted
    async def export(
        self, principal: Principal, app_ref: int | str, datastore_ref: int | str, name: str, wanted: str
    ) -> tuple[Found[ImageRecord], Job]:
        """Begin to bring an app into a datastore of this zone: the image is LOCKED until the job has ended.

        `wanted` is the format it is to have, empty for that of the app.
        """
        app = self._view.resolve(AppRecord, app_ref)
        require_ready(self._view, app)
        if wanted:
            _format(wanted)
        datastore = self._view.resolve(DatastoreRecord, datastore_ref)
        message = app.message
        new = NewImage(name, datastore.id, message.size_bytes, path=message.source)
        self._jobs.require_room()
        image_id = await self._images.lock(
            principal,
            new,
            datastore,
            FROM_APP=str(app.id),
            FROM_APP_MD5=message.md5.hex(),
            FROM_APP_NAME=message.name,
        )
        hit(Failpoint.EXPORT_LOCKED)
        image = self._images.show(image_id)
        record = job_for(JOB_KIND_EXPORT, thing(image), principal, source=thing(app), store_id=datastore.id)
        record.format = wanted
        try:
            job = await self._jobs.start(record)
        except FedmarketError:
            await self._images.drop(image_id)
            raise
        return image, job

    async def download(self, app_ref: int | str, offset: int) -> tuple[Found[AppRecord], AsyncGenerator[bytes, None]]:
        """Return an app and its bytes from `offset` on. The reader checks their digest."""
        app = self._view.resolve(AppRecord, app_ref)
        location = await self._locator.locate(app)
        return app, stream(
            self._session, location.urls, location.size, self._transfer, offset=offset, chunk_bytes=CHUNK
        )

    def check_retry(self, job: Job) -> None:
        """Raise Refused or NotFound if the image or the app is not there, or is not what it was."""
        self._images.check_made_again(job)
        require_ready(self._view, self._app(job))

    async def resume(self, job: Job) -> bool:
        """Lock the image again."""
        return await self._images.lock_again(job)

    async def run(self, job: Job) -> None:
        """Fetch the bytes into the datastore, publish them, and make the image READY."""
        image, app = self._images.made_by(job), self._app(job)
        location = await self._locator.locate(app)
        store, name = self._images.store_of(image), image.message.object
        if not isinstance(store, Writable):
            raise Refused("this datastore is read only: choose another one")
        wanted = _format(job.record.format) if job.record.format else None
        job.begin("fetching", location.size)
        async with staged(lambda: store.stage(name, job.staging, location.size)) as staging:
            found = await self._mover.fetch(location.urls, location.size, location.sha256, staging, job)
            hit(Failpoint.EXPORT_FETCHED)
            digests = Digests(location.sha256, app.message.md5, location.size)
            if wanted is None or wanted is found.format:
                job.begin("publishing", location.size)
                await in_thread(staging.commit)
            else:
                digests, found = await self._convert(store, name, staging, found, wanted, job)
        hit(Failpoint.EXPORT_PUBLISHED)
        await self._images.ready(job, name, digests, found)
        hit(Failpoint.EXPORT_READY)

    async def fail(self, job: Job, error: FedmarketError) -> None:
        """Leave the image in ERROR, with the reason."""
        await self._images.fail(job, error)

    async def _convert(
        self, store: object, name: str, staging: Staging, found: ImageFormat, wanted: Format, job: Job
    ) -> tuple[Digests, ImageFormat]:
        """Convert verified bytes that lie in staging, and commit the result instead of them."""
        source = getattr(staging, "path", None)
        if not isinstance(store, OnDisk) or not isinstance(source, Path):
            raise Refused(f"this datastore cannot convert to {wanted}: export without a format")
        job.begin("converting", found.virtual_size)
        async with staged(lambda: store.stage_file(name, f"{job.staging}-{wanted}")) as converted:
            result = await self._mover.convert(source, found, converted.path, wanted, job)
            hit(Failpoint.EXPORT_CONVERTED)
            await in_thread(converted.commit)
        return result

    def _app(self, job: Job) -> Found[AppRecord]:
        source = job.record.source
        app = self._view.get(AppRecord, source.id)
        if app is None or app.record.uid != source.uid:
            raise NotFound(f"app {source.id} was deleted meanwhile: export another one")
        return app


def _format(text: str) -> Format:
    try:
        return Format(text)
    except ValueError:
        raise BadInput(f"there is no image format {text[:20]!r}: choose one of {', '.join(Format)}") from None
