"""What a crash left behind: LOCKED records that nobody works on, images held by nobody, leftovers in staging.

An agent that works on something says so by a duty under its etcd lease. What nobody holds may also have been begun just
now, so it is cleared only when a second look, a lease later, finds it unheld again. An agent that has just started an
etcd of its own knows that nobody else is at work, and clears at once.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import TypeVar

from google.protobuf.message import Message

from drivers.capabilities import Deletable, Writable
from federation.keys import IDS_PER_ZONE
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
from fedmarket.threads import in_thread
from zone_agent.duties import Duties
from zone_agent.jobs import JobKind, fence_of
from zone_agent.services.catalogs import Catalogs
from zone_agent.services.images import ImageService
from zone_agent.services.upload import Upload
from zone_agent.stores import Stores

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

_PAGE = 200
"""Records that are read in one go, some 3 ms: the loop must not stand still for all of them."""

_INTERRUPTED = Cancelled("the agent stopped in the middle: delete it, and start again")


class Recovery:
    """Clears what agents of this zone left when they died."""

    def __init__(
        self, catalogs: Catalogs, stores: Stores, images: ImageService, duties: Duties, interval_seconds: float
    ) -> None:
        self._view = catalogs.view
        self._catalogs = catalogs
        self._stores = stores
        self._images = images
        self._duties = duties
        self._interval = interval_seconds
        self._suspects: set[str] = set()

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await asyncio.sleep(self._interval)
            await self.look(alone=False)

    async def look(self, *, alone: bool) -> None:
        """Clear what nobody holds: at once if this agent is `alone`, else on the second look."""
        held = await self._duties.all()
        unheld: set[str] = set()
        first_own = self._view.zone * IDS_PER_ZONE

        def abandoned(fence: str) -> bool:
            if fence in held or fence.rpartition("-")[0] in held:  # a job may stage more than one blob
                return False
            unheld.add(fence)
            return alone or fence in self._suspects

        async for app in self._own(AppRecord, first_own):
            locked = app.message.state == APP_STATE_LOCKED
            if locked and abandoned(fence_of(JobKind.CREATE, app.id)):
                await self._try(self._clear_app(app), f"app {app.id}")
        async for image in self._own(ImageRecord, 0):
            locked = image.message.state in {IMAGE_STATE_DELETE, IMAGE_STATE_LOCKED}
            if locked and abandoned(fence_of(JobKind.EXPORT, image.id)):
                await self._try(self._clear_image(image), f"image {image.id}")
            for app_id in list(image.message.app_clones):
                if abandoned(fence_of(JobKind.CREATE, app_id)):
                    await self._try(self._images.release(image.id, app_id), f"image {image.id}")
        async for market in self._own(MarketRecord, first_own):
            await self._try(self._sweep(partial(self._stores.market, market), abandoned), f"market {market.id}")
        async for datastore in self._own(DatastoreRecord, 0):
            sweep = self._sweep(partial(self._stores.datastore, datastore), abandoned)
            await self._try(sweep, f"datastore {datastore.id}")
        self._suspects = unheld

    async def _own(self, message: type[M], first: int) -> AsyncGenerator[Found[M], None]:
        """Yield this zone's records of a kind, whose ids are the `first` and those that follow until another zone's."""
        after = first - 1
        while page := self._view.page(message, after, _PAGE):
            for found in page:
                if found.home != self._view.zone:
                    return
                yield found
            after = page[-1].id
            await asyncio.sleep(0)

    async def _try(self, clearing: Awaitable[None], what: str) -> None:
        """Clear one thing; what cannot be cleared now does not keep the rest from it."""
        try:
            await clearing
        except FedmarketError as error:
            log.warning("%s could not be cleared, and is tried again: %s", what, error.message)

    async def _clear_app(self, app: Found[AppRecord]) -> None:
        market = self._view.resolve(MarketRecord, app.message.market_id)
        await self._remove(self._stores.market(market), app.message.object)
        upload = Upload(self._catalogs, self._stores, self._images, app.id, app.message.origin_id, market)
        await upload.fail(_INTERRUPTED)

    async def _clear_image(self, image: Found[ImageRecord]) -> None:
        if image.message.state == IMAGE_STATE_DELETE:
            await self._images.drop(image.id)
            return
        datastore = self._view.resolve(DatastoreRecord, image.message.datastore_id)
        await self._remove(self._stores.datastore(datastore), image.message.object)
        await self._images.fail(image.id, _INTERRUPTED)

    async def _remove(self, store: object, name: str) -> None:
        if isinstance(store, Deletable) and name:
            await in_thread(lambda: store.delete(name))

    async def _sweep(self, make: Callable[[], object], abandoned: Callable[[str], bool]) -> None:
        store = make()
        if not isinstance(store, Writable):
            return
        swept = await in_thread(lambda: store.sweep(lambda fence: not abandoned(fence)))
        if swept:
            log.info("%d leftovers were swept from staging", swept)
