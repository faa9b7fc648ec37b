"""Apps: create (the rule), list, show, delete."""

import secrets
import time
from collections.abc import Sequence

from drivers.capabilities import Writable
from federation.draft import Draft
from federation.requests import Requests, Ticket
from federation.view import Found
from fedmarket.errors import FedmarketError, Refused
from fedmarket.failpoints import Failpoint, hit
from fedmarket.names import check_name
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_KIND_CREATE
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_ERROR,
    APP_STATE_LOCKED,
    APP_TYPE_IMAGE,
    AppRecord,
    Failure,
    ImageRecord,
    MarketRecord,
)
from fedmarket.threads import in_thread, uninterrupted
from zone_agent.jobs import Job, Jobs, job_for, thing
from zone_agent.services.catalogs import Catalogs, require, taken
from zone_agent.services.deletion import Deletion
from zone_agent.services.images import ImageService, require_readable
from zone_agent.services.leftovers import remove
from zone_agent.services.locks import Operation, require_unlocked
from zone_agent.services.markets import require_enabled
from zone_agent.services.mover import Mover
from zone_agent.services.principal import DEFAULT_MODE, Principal
from zone_agent.services.upload import Upload
from zone_agent.stores import Stores, template_of

BEING_DELETED = "it is being deleted: delete it again to finish"


class AppService:
    """The use cases of apps, as far as they change this zone's catalog."""

    def __init__(
        self,
        catalogs: Catalogs,
        stores: Stores,
        jobs: Jobs,
        images: ImageService,
        mover: Mover,
        requests: Requests,
    ) -> None:
        self._catalogs = catalogs
        self._view = catalogs.view
        self._stores = stores
        self._jobs = jobs
        self._images = images
        self.upload = Upload(catalogs, stores, images, mover)
        jobs.serve(JOB_KIND_CREATE, "app", self.upload)
        self._deletion = Deletion(catalogs, jobs, AppRecord, _Deleted(catalogs, stores), requests)

    def list(self, after: int, limit: int, market: int | str | None = None) -> Sequence[Found[AppRecord]]:
        """Return a page of all apps that this zone sees, or of those of one market."""
        if market is None:
            return self._view.page(AppRecord, after, limit)
        of_market = self._view.children(AppRecord, self._view.resolve(MarketRecord, market).id)
        ids = [app_id for app_id in of_market if app_id > after][:limit]
        return [found for app_id in ids if (found := self._view.get(AppRecord, app_id)) is not None]

    def show(self, ref: int | str) -> Found[AppRecord]:
        """Return one app. Raises NotFound."""
        return self._view.resolve(AppRecord, ref)

    @uninterrupted
    async def create(
        self,
        principal: Principal,
        name: str,
        image_ref: int | str,
        market_ref: int | str,
        *,
        description: str = "",
        version: str = "",
    ) -> tuple[Found[AppRecord], Job]:
        """Begin to upload an image of this zone into a market of this zone: the app is LOCKED until the job has ended.

        Raises NotHome for a market of another zone, before anything is read or written.
        """
        market = self._view.resolve(MarketRecord, market_ref)
        self._catalogs.require_home(
            market.home,
            f"market {market.message.name!r}",
            "creates apps in it",
            f", or publish by migration: the image travels to zone {self._catalogs.called(market.home)}, "
            "which creates the app from its own copy",
        )
        require_enabled(market.message)
        check_name(name, "app")
        self._check_name_is_free(name, principal)
        image = self._view.resolve(ImageRecord, image_ref)
        require_readable(image.id, image.message)
        store = self._stores.market(market)
        if not isinstance(store, Writable):
            raise Refused(f"market {market.message.name!r} ({market.message.driver}) is read only: choose another one")
        await in_thread(store.check)
        self._jobs.require_room()
        app = self.show(await self._lock(principal, name, image, market, description, version))
        hit(Failpoint.CREATE_LOCKED)
        try:
            await self._images.hold(image.id, app=app.id)
            hit(Failpoint.CREATE_HELD)
            record = job_for(JOB_KIND_CREATE, thing(app), principal, source=thing(image), store_id=market.id)
            job = await self._jobs.start(record)
        except FedmarketError:
            await self.upload.abandon(app, image.id)
            raise
        return self.show(app.id), job

    @uninterrupted
    async def delete(self, principal: Principal, ref: int | str, ticket: Ticket | None = None) -> int:
        """Delete an app of this zone with its bytes, and return its id; what was half deleted is deleted again.

        An upload that runs is cancelled first. If the bytes cannot be removed, that is raised, and the app stays, in
        state ERROR. The ticket notes the request that asks for it.
        """
        app = self.show(ref)
        self._catalogs.require_home(app.home, f"app {app.message.name!r}", "deletes it")
        require_unlocked(f"app {app.message.name!r}", app.message.lock, Operation.MANAGE)
        return await self._deletion.delete(principal, app, ticket)

    async def _lock(
        self,
        principal: Principal,
        name: str,
        image: Found[ImageRecord],
        market: Found[MarketRecord],
        description: str,
        version: str,
    ) -> int:
        """Commit the app, LOCKED. The market is checked once more at the very head that the commit compares."""
        said = {"DESCRIPTION": description, "VERSION": version or "0.0", "TYPE": "IMAGE"}
        message = AppRecord(
            name=name,
            owner=principal.owner(),
            mode=DEFAULT_MODE,
            register_time=int(time.time()),
            market_id=market.id,
            state=APP_STATE_LOCKED,
            type=APP_TYPE_IMAGE,
            origin_id=image.id,
            object=secrets.token_hex(16),
            template=template_of({key: value for key, value in said.items() if value}),
        )

        def change(draft: Draft) -> int:
            require_enabled(require(draft, MarketRecord, market.id, "the market"))
            for app_id, record in draft.named(AppRecord, name):
                if record.message.owner.uid == principal.uid:
                    raise taken("app", name, app_id, self._view.zone_name(self._view.zone))
            return draft.create(message)

        return await self._catalogs.change(change, private=market.private)

    def _check_name_is_free(self, name: str, principal: Principal) -> None:
        for clash in self._view.named(AppRecord, name):
            if clash.message.owner.uid == principal.uid:
                raise taken("app", name, clash.id, self._view.zone_name(clash.home))


class _Deleted:
    """What is particular to the delete of an app."""

    def __init__(self, catalogs: Catalogs, stores: Stores) -> None:
        self._view = catalogs.view
        self._stores = stores

    def mark(self, message: AppRecord) -> None:
        require_unlocked(f"app {message.name!r}", message.lock, Operation.MANAGE)
        message.state = APP_STATE_ERROR
        message.error.CopyFrom(Failure(text=BEING_DELETED, time=int(time.time())))

    def blame(self, message: AppRecord, error: FedmarketError) -> None:
        if message.error.text == BEING_DELETED:
            message.error.text = f"it could not be deleted: {error.message}"

    async def remove(self, message: AppRecord) -> None:
        await remove(self._stores.market(self._view.resolve(MarketRecord, message.market_id)), message.object)
