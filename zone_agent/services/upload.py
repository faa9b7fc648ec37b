"""The work of creating an app: an image's bytes into the market, hashed on the way, then READY."""

import logging
import secrets
import time
from collections.abc import Callable

from drivers.capabilities import Published, Readable, Writable
from federation.view import Found
from fedmarket.errors import FedmarketError, NotFound, Refused
from fedmarket.failpoints import Failpoint, hit
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_ERROR,
    APP_STATE_LOCKED,
    APP_STATE_READY,
    AppRecord,
    DatastoreRecord,
    Failure,
    ImageRecord,
    MarketRecord,
)
from fedmarket.threads import in_thread, staged
from zone_agent.jobs import Job
from zone_agent.services.catalogs import Catalogs, edit
from zone_agent.services.images import ImageService, require_readable
from zone_agent.services.leftovers import clear, try_to_clear
from zone_agent.services.mover import Mover
from zone_agent.stores import Stores

log = logging.getLogger(__name__)


class Upload:
    """Does the jobs that create apps: see `zone_agent.jobs.Work`."""

    def __init__(self, catalogs: Catalogs, stores: Stores, images: ImageService, mover: Mover) -> None:
        self._catalogs = catalogs
        self._view = catalogs.view
        self._images = images
        self._stores = stores
        self._mover = mover

    def check_retry(self, job: Job) -> None:
        """Raise Refused or NotFound if the app or its image is not there, or is not what it was."""
        app = self._app(job)
        if app.message.state != APP_STATE_ERROR:
            raise Refused(f"app {app.message.name!r} is not in ERROR: there is nothing to repeat")
        image = self._image(job)
        require_readable(image.id, image.message)

    async def resume(self, job: Job) -> bool:
        """Clear what an earlier attempt stored, and lock the app again under a new object name."""
        app = self._app(job)
        if app.message.state not in {APP_STATE_LOCKED, APP_STATE_ERROR}:
            await self._images.release(job.record.source.id, app=app.id)
            return False
        await clear(self._stores.market(self._market(app)), job.fence, app.message.object)
        fresh = secrets.token_hex(16)

        def lock(message: AppRecord) -> None:
            message.state, message.object = APP_STATE_LOCKED, fresh
            message.ClearField("error")

        await self._change(app, lock)
        await self._images.hold(self._image(job).id, app=app.id)
        return True

    async def run(self, job: Job) -> None:
        """Copy the bytes, publish them, and make the app READY."""
        app, image = self._app(job), self._image(job).message
        name = app.message.object
        datastore = self._stores.datastore(self._view.resolve(DatastoreRecord, image.datastore_id))
        market = self._stores.market(self._market(app))
        if not isinstance(datastore, Readable) or not isinstance(market, Writable):
            raise Refused("this datastore cannot be read, or this market not written: choose others")
        size = image.size_bytes
        job.begin("hashing", size)
        async with staged(lambda: market.stage(name, job.staging, size)) as staging:
            digests = await self._mover.copy(datastore, image.object, size, staging, job)
            if image.sha256 and image.sha256 != digests.sha256:
                raise Refused(
                    f"the bytes of image {image.name!r} are not those that were imported: import it again under "
                    "another name"
                )
            hit(Failpoint.CREATE_COPIED)
            job.begin("publishing", size)
            await in_thread(staging.commit)
        hit(Failpoint.CREATE_PUBLISHED)

        def ready(message: AppRecord) -> None:
            if message.state != APP_STATE_LOCKED or message.object != name:
                raise Refused(f"app {message.name!r} was deleted, or is made by another agent: look at it")
            message.state = APP_STATE_READY
            message.sha256, message.md5, message.size_bytes = digests.sha256, digests.md5, digests.size
            message.virtual_bytes, message.format = image.virtual_bytes, image.format
            message.source = _source(market, app, name)
            message.ClearField("error")

        # First, so that whoever sees the app READY can delete the image.
        await self._images.release(job.record.source.id, app=app.id)
        hit(Failpoint.CREATE_RELEASED)
        try:
            await self._change(app, ready)
        except (NotFound, Refused):
            await try_to_clear(market, job.staging, name)  # no record speaks of it
            raise
        hit(Failpoint.CREATE_READY)

    async def fail(self, job: Job, error: FedmarketError) -> None:
        """Leave the app in ERROR, with the reason, and the image free."""

        def failed(message: AppRecord) -> None:
            if message.state != APP_STATE_LOCKED:
                return  # it ended otherwise meanwhile
            message.state = APP_STATE_ERROR
            message.error.CopyFrom(Failure(text=error.message, time=int(time.time())))

        try:
            await self._change(self._app(job), failed)
            app = self._app(job)
            # It may have been published before its last commit failed.
            name = app.message.object if app.message.state == APP_STATE_ERROR else ""
            await try_to_clear(self._stores.market(self._market(app)), job.fence, name)
        except NotFound:
            log.info("app %d was deleted while it was made", job.object_id)
        finally:
            await self._images.release(job.record.source.id, app=job.object_id)

    async def abandon(self, app: Found[AppRecord], image_id: int) -> None:
        """Undo what was committed for an upload that did not begin."""
        await self._catalogs.change(lambda draft: draft.delete(AppRecord, app.id), private=app.private)
        await self._images.release(image_id, app=app.id)

    def _app(self, job: Job) -> Found[AppRecord]:
        app = self._view.get(AppRecord, job.object_id)
        if app is None or app.record.uid != job.record.object.uid:
            raise NotFound(f"app {job.object_id} was deleted meanwhile: create it again if it is still wanted")
        return app

    def _image(self, job: Job) -> Found[ImageRecord]:
        source = job.record.source
        image = self._view.get(ImageRecord, source.id)
        if image is None or image.record.uid != source.uid:
            raise NotFound(f"image {source.id}, of which the app is made, was deleted meanwhile: create it of another")
        return image

    def _market(self, app: Found[AppRecord]) -> Found[MarketRecord]:
        return self._view.resolve(MarketRecord, app.message.market_id)

    async def _change(self, app: Found[AppRecord], change: Callable[[AppRecord], None]) -> None:
        await self._catalogs.change(
            lambda draft: edit(draft, AppRecord, app.id, "the app", change), private=app.private
        )


def _source(market: object, app: Found[AppRecord], name: str) -> str:
    """Return where OpenNebula's clients find the bytes."""
    published = market.public_url(name) if isinstance(market, Published) else None
    return published or f"fedmarket://{app.home}/{app.message.market_id}/{name}"
