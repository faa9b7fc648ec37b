"""What a crash left behind: LOCKED records that nobody works on, images held by nobody, leftovers in staging."""

import logging
from collections.abc import Callable

from drivers.capabilities import Deletable, Writable
from federation.view import Found
from fedmarket.errors import Cancelled, FedmarketError
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_LOCKED,
    IMAGE_STATE_DELETE,
    IMAGE_STATE_LOCKED,
    AppRecord,
    DatastoreRecord,
    ImageRecord,
    MarketRecord,
)
from zone_agent.duties import Duties
from zone_agent.jobs import JobKind, fence_of
from zone_agent.services.catalogs import Catalogs
from zone_agent.services.images import ImageService
from zone_agent.services.upload import Upload
from zone_agent.stores import Stores
from zone_agent.threads import in_thread

log = logging.getLogger(__name__)

_ALL = 2**31


class Recovery:
    """Clears what agents of this zone left when they died. Run once, before the faces open."""

    def __init__(self, catalogs: Catalogs, stores: Stores, images: ImageService, duties: Duties) -> None:
        self._catalogs = catalogs
        self._view = catalogs.view
        self._stores = stores
        self._images = images
        self._duties = duties

    async def run(self) -> None:
        """Put every record that nobody works on into a state that a user can leave."""
        held = await self._duties.others()
        interrupted = Cancelled("the agent stopped in the middle: delete it, and start again")
        for app in self._own_apps():
            if app.message.state == APP_STATE_LOCKED and fence_of(JobKind.CREATE, app.id) not in held:
                market = self._view.resolve(MarketRecord, app.message.market_id)
                await self._remove(self._stores.market(market), app.message.object)
                upload = Upload(self._catalogs, self._stores, self._images, app.id, app.message.origin_id, market)
                await upload.fail(interrupted)
        for image in self._view.page(ImageRecord, -1, _ALL):
            await self._recover_image(image, held, interrupted)
        for store in self._all_stores():
            await self._sweep(store, lambda fence: fence in held)

    async def _recover_image(
        self, image: Found[ImageRecord], held: frozenset[str], interrupted: FedmarketError
    ) -> None:
        if fence_of(JobKind.EXPORT, image.id) in held:
            return
        if image.message.state == IMAGE_STATE_DELETE:
            await self._images.drop(image.id)
        elif image.message.state == IMAGE_STATE_LOCKED:
            datastore = self._view.resolve(DatastoreRecord, image.message.datastore_id)
            await self._remove(self._stores.datastore(datastore), image.message.object)
            await self._images.fail(image.id, interrupted)
        for app_id in list(image.message.app_clones):
            if fence_of(JobKind.CREATE, app_id) not in held:
                await self._images.release(image.id, app_id)

    def _own_apps(self) -> list[Found[AppRecord]]:
        return [app for app in self._view.page(AppRecord, -1, _ALL) if app.home == self._view.zone]

    def _all_stores(self) -> list[object]:
        markets = [self._stores.market(m) for m in self._view.page(MarketRecord, -1, _ALL) if m.home == self._view.zone]
        return markets + [self._stores.datastore(d) for d in self._view.page(DatastoreRecord, -1, _ALL)]

    async def _remove(self, store: object, name: str) -> None:
        if isinstance(store, Deletable) and name:
            await in_thread(lambda: store.delete(name))

    async def _sweep(self, store: object, running: Callable[[str], bool]) -> None:
        if not isinstance(store, Writable):
            return
        try:
            swept = await in_thread(lambda: store.sweep(running))
        except FedmarketError as error:
            log.warning("staging could not be swept: %s", error.message)
        else:
            if swept:
                log.info("%d leftovers were swept from staging", swept)
