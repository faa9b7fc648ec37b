"""What a crash left behind: jobs that nobody runs, records LOCKED for no job, leftovers in staging.

An agent that works on something says so by a duty under its etcd lease. A job that has not ended and whose fence nobody
holds is taken up at once: its fence was claimed before it was written down. What is LOCKED, staged or held without a
job may also have been begun just now, so it is cleared only when a second look, a lease later, finds it unheld again.
An agent that has just started an etcd of its own knows that nobody else is at work, and clears at once.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import TypeVar

from google.protobuf.message import Message

from drivers.capabilities import Writable
from federation.keys import IDS_PER_ZONE
from federation.records import check_changeable
from federation.view import Found
from fedmarket.errors import Cancelled, FedmarketError
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_KIND_CREATE, JOB_KIND_IMPORT, JobKind, JobObject, JobRecord
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
from zone_agent.jobs import Job, Jobs, Work, job_for, thing
from zone_agent.services.catalogs import Catalogs
from zone_agent.services.downloads import DownloadService
from zone_agent.services.images import ImageService
from zone_agent.services.principal import ADMIN_GID, ADMIN_UID, Principal
from zone_agent.stores import Stores

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

_PAGE = 200
"""Records that are read in one go, some 3 ms: the loop must not stand still for all of them."""

_INTERRUPTED = Cancelled("the agent ended before the job was written down: delete it, and start again")


class Recovery:
    """Clears what agents of this zone left when they died."""

    def __init__(
        self,
        catalogs: Catalogs,
        stores: Stores,
        jobs: Jobs,
        images: ImageService,
        upload: Work,
        downloads: DownloadService,
        duties: Duties,
        interval_seconds: float,
    ) -> None:
        self._view = catalogs.view
        self._catalogs = catalogs
        self._stores = stores
        self._jobs = jobs
        self._images = images
        self._upload = upload
        self._downloads = downloads
        self._duties = duties
        self._interval = interval_seconds
        self._suspects: set[str] = set()
        self._first_own = self._view.zone * IDS_PER_ZONE

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await asyncio.sleep(self._interval)
            await self.look(alone=False)

    async def look(self, *, alone: bool) -> None:
        """Take up jobs that nobody runs, and clear what nobody holds; unless it is `alone`, what it saw twice."""
        await self._try(self._jobs.resume_all(), "what was not ended")
        held = await self._duties.all()
        unheld: set[str] = set()

        def abandoned(fence: str) -> bool:
            if _holders(fence) & held:
                return False
            unheld.add(fence)
            return alone or fence in self._suspects

        await self._look_at_apps(abandoned)
        await self._look_at_images(abandoned)
        async for market in self._own(MarketRecord, self._first_own):
            await self._try(self._sweep(partial(self._stores.market, market), abandoned), f"market {market.id}")
        async for datastore in self._own(DatastoreRecord, 0):
            sweep = self._sweep(partial(self._stores.datastore, datastore), abandoned)
            await self._try(sweep, f"datastore {datastore.id}")
        await self._try(self._sweep(lambda: self._downloads.store, abandoned), "the directory of downloads")
        self._suspects = unheld

    async def _look_at_apps(self, abandoned: Callable[[str], bool]) -> None:
        async for app in self._own(AppRecord, self._first_own):
            locked = app.message.state == APP_STATE_LOCKED
            if locked and abandoned(f"app-{app.id}"):
                await self._try(self._clear_app(app), f"app {app.id}")

    async def _look_at_images(self, abandoned: Callable[[str], bool]) -> None:
        async for image in self._own(ImageRecord, 0):
            locked = image.message.state in {IMAGE_STATE_DELETE, IMAGE_STATE_LOCKED}
            if locked and abandoned(f"image-{image.id}"):
                await self._try(self._clear_image(image), f"image {image.id}")
            for app_id in list(image.message.app_clones):
                if abandoned(f"app-{app_id}"):
                    await self._try(self._images.release(image.id, app=app_id), f"image {image.id}")
            for clone_id in list(image.message.image_clones):
                if abandoned(f"image-{clone_id}"):
                    await self._try(self._images.release(image.id, image=clone_id), f"image {image.id}")

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
        check_changeable(app.record)  # before its bytes are removed
        record = self._unwritten(JOB_KIND_CREATE, thing(app))
        record.source.id = app.message.origin_id
        await self._upload.fail(Job("", record), _INTERRUPTED)

    async def _clear_image(self, image: Found[ImageRecord]) -> None:
        check_changeable(image.record)
        if image.message.state == IMAGE_STATE_DELETE:
            await self._images.drop(image.id)
            return
        await self._images.fail(Job("", self._unwritten(JOB_KIND_IMPORT, thing(image))), _INTERRUPTED)

    def _unwritten(self, kind: JobKind.ValueType, made: JobObject) -> JobRecord:
        """Return the record of the job that was never written down."""
        return job_for(kind, made, Principal(self._view.zone, ADMIN_UID, ADMIN_GID))

    async def _sweep(self, make: Callable[[], object], abandoned: Callable[[str], bool]) -> None:
        store = make()
        if not isinstance(store, Writable):
            return
        swept = await in_thread(lambda: store.sweep(lambda fence: not abandoned(fence)))
        if swept:
            log.info("%d leftovers were swept from staging", swept)


def _holders(fence: str) -> set[str]:
    """Return the duties under which something may be staged so: a job adds its attempt, and what it makes of it."""
    parts = fence.split("-")
    return {"-".join(parts[:end]) for end in range(1, len(parts) + 1)}
