"""The work of creating an app: an image's bytes into the market, hashed on the way, then READY."""

import logging
import time
from collections.abc import Callable

from drivers.capabilities import Deletable, Published, Readable, Writable
from drivers.copy import copy_blob
from federation.view import Found
from fedmarket.digests import Digests, Hasher
from fedmarket.errors import FedmarketError, NotFound, Refused
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
from fedmarket.threads import in_thread
from zone_agent.jobs import Job
from zone_agent.services.catalogs import Catalogs, edit
from zone_agent.services.images import ImageService
from zone_agent.stores import Stores

log = logging.getLogger(__name__)


class Upload:
    """One app on its way into its market."""

    def __init__(
        self,
        catalogs: Catalogs,
        stores: Stores,
        images: ImageService,
        app_id: int,
        image_id: int,
        market: Found[MarketRecord],
    ) -> None:
        self._catalogs = catalogs
        self._images = images
        self._stores = stores
        self._app_id = app_id
        self._image_id = image_id
        self._market = market
        self._object = ""
        """What may have been stored."""

    async def run(self, job: Job) -> None:
        """Copy the bytes, publish them, and make the app READY."""
        image = self._catalogs.view.resolve(ImageRecord, self._image_id).message
        app = self._catalogs.view.resolve(AppRecord, self._app_id).message
        self._object = app.object
        job.begin("hashing", image.size_bytes)
        digests = await in_thread(lambda: self._copy(job, image, app.object), lambda: setattr(job, "cancelled", True))
        job.begin("publishing", image.size_bytes)

        def ready(message: AppRecord) -> None:
            message.state = APP_STATE_READY
            message.sha256, message.md5, message.size_bytes = digests.sha256, digests.md5, digests.size
            message.virtual_bytes, message.format = image.virtual_bytes, image.format
            message.source = self._source(app.object)
            message.ClearField("error")

        # First, so that whoever sees the app READY can delete the image.
        await self._images.release(self._image_id, self._app_id)
        await self._change_app(ready)

    async def abandon(self) -> None:
        """Undo what was committed for an upload that did not begin."""
        await self._catalogs.change(lambda draft: draft.delete(AppRecord, self._app_id), private=self._market.private)
        await self._images.release(self._image_id, self._app_id)

    async def fail(self, error: FedmarketError) -> None:
        """Leave the app in ERROR, with the reason, and the image free."""

        def failed(message: AppRecord) -> None:
            if message.state != APP_STATE_LOCKED:
                return  # it ended otherwise meanwhile
            message.state = APP_STATE_ERROR
            message.error.CopyFrom(Failure(text=error.message, time=int(time.time())))

        try:
            await self._change_app(failed)
            if self._catalogs.view.resolve(AppRecord, self._app_id).message.state == APP_STATE_ERROR:
                await self._remove()  # it may have been published before its last commit failed
        except NotFound:
            log.info("app %d was deleted while it was made", self._app_id)
            await self._remove()
        finally:
            await self._images.release(self._image_id, self._app_id)

    def _copy(self, job: Job, image: ImageRecord, name: str) -> Digests:
        """Copy the image into the market. Blocks. Nothing is visible there before it is whole."""
        datastore = self._stores.datastore(self._catalogs.view.resolve(DatastoreRecord, image.datastore_id))
        market = self._stores.market(self._market)
        if not isinstance(datastore, Readable) or not isinstance(market, Writable):
            raise Refused("this datastore cannot be read, or this market not written: choose others")
        with (
            datastore.open(image.object) as source,
            market.stage(name, job.fence, image.size_bytes) as staging,
            Hasher() as hasher,
        ):
            digests = copy_blob(source, image.size_bytes, staging, hasher, job.progress, job.is_cancelled)
            if image.sha256 and image.sha256 != digests.sha256:
                raise Refused(
                    f"the bytes of image {image.name!r} are not those that were imported: import it again under "
                    "another name"
                )
            staging.commit()
        return digests

    async def _remove(self) -> None:
        store = self._stores.market(self._market)
        if self._object and isinstance(store, Deletable):
            await in_thread(lambda: store.delete(self._object))

    def _source(self, name: str) -> str:
        """Return where OpenNebula's clients find the bytes."""
        store = self._stores.market(self._market)
        published = store.public_url(name) if isinstance(store, Published) else None
        return published or f"fedmarket://{self._market.home}/{self._market.id}/{name}"

    async def _change_app(self, change: Callable[[AppRecord], None]) -> None:
        await self._catalogs.change(
            lambda draft: edit(draft, AppRecord, self._app_id, "the app", change),
            private=self._market.private,
        )
