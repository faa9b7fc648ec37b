"""The native API's servicers: from messages to services and back, nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from federation.head import CatalogId
from federation.recall import messages_of
from federation.repair import Outcome, Repaired
from federation.view import Found
from fedmarket.errors import BadInput, Timeout
from fedmarket.pb.fedmarket.v1 import (
    app_pb2,
    app_pb2_grpc,
    image_pb2,
    image_pb2_grpc,
    market_pb2,
    market_pb2_grpc,
    peer_pb2,
    zone_pb2,
    zone_pb2_grpc,
)
from fedmarket.pb.fedmarket.v1.record_pb2 import ImageRecord
from zone_agent.faces.native import project
from zone_agent.faces.native.gate import caller
from zone_agent.faces.native.project import Projector, paged, ref
from zone_agent.services.apps import AppService
from zone_agent.services.clones import CloneService
from zone_agent.services.datastores import DatastoreService
from zone_agent.services.downloads import DownloadService
from zone_agent.services.exports import ExportService
from zone_agent.services.federation import FederationService
from zone_agent.services.images import ImageService, NewImage
from zone_agent.services.markets import MarketService
from zone_agent.services.zones import ZoneService

# ruff: noqa: D102 -- the methods are named, and described, in proto/fedmarket/v1


class Zones(zone_pb2_grpc.ZoneServiceServicer):
    """fedmarket.v1.ZoneService."""

    def __init__(self, zones: ZoneService) -> None:
        self._zones = zones

    async def List(self, request: zone_pb2.ListZonesRequest, context: Any) -> zone_pb2.ListZonesResponse:
        return zone_pb2.ListZonesResponse(zones=[project.zone(zone) for zone in self._zones.list()])

    async def Show(self, request: zone_pb2.ShowZoneRequest, context: Any) -> zone_pb2.Zone:
        return project.zone(self._zones.show(ref(request.zone) if request.HasField("zone") else None))

    async def Export(self, request: zone_pb2.ExportZoneRequest, context: Any) -> AsyncIterator[peer_pb2.Commit]:
        copy = self._zones.copy(ref(request.zone) if request.HasField("zone") else None)
        for message in messages_of(copy.head, copy.tree):
            yield message

    async def Repair(self, request: zone_pb2.RepairZoneRequest, context: Any) -> zone_pb2.RepairZoneResponse:
        done = await self._zones.repair(accept=request.accept)
        return zone_pb2.RepairZoneResponse(catalogs=[_repaired(catalog, one) for catalog, one in done.items()])


def _repaired(catalog: CatalogId, repaired: Repaired) -> zone_pb2.CatalogRepair:
    return zone_pb2.CatalogRepair(
        catalog=catalog,
        outcome=_OUTCOMES[repaired.outcome],
        source=repaired.source,
        written=repaired.written,
        removed=repaired.removed,
        head=project.head(repaired.head),
    )


_OUTCOMES = {
    Outcome.SOUND: zone_pb2.REPAIR_OUTCOME_SOUND,
    Outcome.RESTORED: zone_pb2.REPAIR_OUTCOME_RESTORED,
    Outcome.ACCEPTED: zone_pb2.REPAIR_OUTCOME_ACCEPTED,
}


class Federation(zone_pb2_grpc.FederationServiceServicer):
    """fedmarket.v1.FederationService."""

    def __init__(self, zones: ZoneService, federation: FederationService) -> None:
        self._zones = zones
        self._federation = federation

    async def Status(
        self, request: zone_pb2.FederationStatusRequest, context: Any
    ) -> zone_pb2.FederationStatusResponse:
        return zone_pb2.FederationStatusResponse(
            self=project.zone(self._zones.show(None)),
            links=[project.link(zone, status) for zone, status in self._zones.links()],
            scrub=project.scrub_summary(
                self._federation.summary(), self._federation.strays(), self._federation.last_checks()
            ),
            alarms=self._federation.alarms(),
        )

    async def Verify(self, request: zone_pb2.VerifyRequest, context: Any) -> AsyncIterator[zone_pb2.CatalogCheck]:
        async with aclosing(self._federation.verify(_one_or_all(request))) as checks:
            async for check in checks:
                yield project.catalog_check(check)

    async def Retry(self, request: zone_pb2.RetryLinkRequest, context: Any) -> zone_pb2.Link:
        return project.link(*await self._federation.retry(ref(request.zone)))

    async def Lost(self, request: zone_pb2.ListLostRequest, context: Any) -> AsyncIterator[zone_pb2.LostRecord]:
        async with aclosing(self._federation.lost(_one_or_all(request), request.epoch)) as records:
            async for zone, lost in records:
                yield project.lost_record(zone, lost)

    async def ShowLost(self, request: zone_pb2.ShowLostRequest, context: Any) -> zone_pb2.ShowLostResponse:
        zone, lost = await self._federation.show_lost(ref(request.zone), request.kind, request.id, request.epoch)
        return zone_pb2.ShowLostResponse(lost=project.lost_record(zone, lost), value=lost.value)

    async def Forget(self, request: zone_pb2.ForgetRequest, context: Any) -> zone_pb2.ForgetResponse:
        zone, keys = await self._federation.forget(ref(request.zone))
        return zone_pb2.ForgetResponse(zone_id=zone, keys=keys)


class Markets(market_pb2_grpc.MarketServiceServicer):
    """fedmarket.v1.MarketService."""

    def __init__(self, markets: MarketService, projector: Projector) -> None:
        self._markets = markets
        self._projector = projector

    async def Create(self, request: market_pb2.CreateMarketRequest, context: Any) -> market_pb2.Market:
        market = await self._markets.create(
            caller(), request.name, request.driver, request.scope, dict(request.attributes)
        )
        return self._projector.market(market)

    async def List(self, request: market_pb2.ListMarketsRequest, context: Any) -> market_pb2.ListMarketsResponse:
        markets, following = paged(request.page, self._markets.list, self._projector.market)
        return market_pb2.ListMarketsResponse(markets=markets, next=following)

    async def Show(self, request: market_pb2.ShowMarketRequest, context: Any) -> market_pb2.Market:
        return self._projector.market(self._markets.show(ref(request.market)))


class Apps(app_pb2_grpc.AppServiceServicer):
    """fedmarket.v1.AppService."""

    def __init__(
        self,
        apps: AppService,
        exports: ExportService,
        downloads: DownloadService,
        projector: Projector,
        images: "Images",
    ) -> None:
        self._apps = apps
        self._exports = exports
        self._downloads = downloads
        self._projector = projector
        self._images = images

    async def Create(self, request: app_pb2.CreateAppRequest, context: Any) -> app_pb2.CreateAppResponse:
        app, job = await self._apps.create(
            caller(),
            request.name,
            ref(request.image),
            ref(request.market),
            description=request.description,
            version=request.version,
        )
        return app_pb2.CreateAppResponse(app=self._projector.app(app), job_id=job.id)

    async def List(self, request: app_pb2.ListAppsRequest, context: Any) -> app_pb2.ListAppsResponse:
        market = ref(request.market) if request.HasField("market") else None
        apps, following = paged(
            request.page, lambda after, limit: self._apps.list(after, limit, market), self._projector.app
        )
        return app_pb2.ListAppsResponse(apps=apps, next=following)

    async def Show(self, request: app_pb2.ShowAppRequest, context: Any) -> app_pb2.App:
        return self._projector.app(self._apps.show(ref(request.app)))

    async def Export(self, request: app_pb2.ExportAppRequest, context: Any) -> app_pb2.ExportAppResponse:
        image, job = await self._exports.export(
            caller(), ref(request.app), ref(request.datastore), request.name, request.format
        )
        return app_pb2.ExportAppResponse(image=self._images.project(image), job_id=job.id)

    async def Fetch(self, request: app_pb2.FetchAppRequest, context: Any) -> app_pb2.FetchAppResponse:
        path, job = await self._downloads.fetch(caller(), ref(request.app), request.file)
        return app_pb2.FetchAppResponse(path=str(path), job_id=job.id)

    async def Download(
        self, request: app_pb2.DownloadAppRequest, context: Any
    ) -> AsyncIterator[app_pb2.DownloadAppResponse]:
        app, chunks = await self._exports.download(ref(request.app), request.offset)
        yield app_pb2.DownloadAppResponse(start=app_pb2.DownloadStart(app=self._projector.app(app)))
        async with aclosing(chunks):
            async for chunk in chunks:
                yield app_pb2.DownloadAppResponse(data=chunk)


class Images(image_pb2_grpc.ImageServiceServicer):
    """fedmarket.v1.ImageService."""

    def __init__(self, images: ImageService, clones: CloneService, projector: Projector, idle_seconds: float) -> None:
        self._images = images
        self._clones = clones
        self._projector = projector
        self._idle_seconds = idle_seconds

    def project(self, image: Found[ImageRecord]) -> image_pb2.Image:
        """Return an image as the API shows it."""
        return self._projector.image(image, self._images.source(image))

    async def Import(self, request: AsyncIterator[image_pb2.ImportImageRequest], context: Any) -> image_pb2.Image:
        first = await _next(request, self._idle_seconds)
        if first is None or first.WhichOneof("part") != "start":
            raise BadInput("an import begins with its name, datastore and size: send ImportStart first")
        start = first.start
        new = NewImage(start.name, ref(start.datastore), start.size_bytes, start.path, start.type)
        return self.project(await self._images.import_stream(caller(), new, _data(request, self._idle_seconds)))

    async def List(self, request: image_pb2.ListImagesRequest, context: Any) -> image_pb2.ListImagesResponse:
        images, following = paged(request.page, self._images.list, self.project)
        return image_pb2.ListImagesResponse(images=images, next=following)

    async def Show(self, request: image_pb2.ShowImageRequest, context: Any) -> image_pb2.Image:
        return self.project(self._images.show(ref(request.image)))

    async def Clone(self, request: image_pb2.CloneImageRequest, context: Any) -> image_pb2.CloneImageResponse:
        datastore = ref(request.datastore) if request.HasField("datastore") else None
        image, job = await self._clones.clone(caller(), ref(request.image), request.name, datastore)
        return image_pb2.CloneImageResponse(image=self.project(image), job_id=job.id)


class Datastores(image_pb2_grpc.DatastoreServiceServicer):
    """fedmarket.v1.DatastoreService."""

    def __init__(self, datastores: DatastoreService, projector: Projector) -> None:
        self._datastores = datastores
        self._projector = projector

    async def List(self, request: image_pb2.ListDatastoresRequest, context: Any) -> image_pb2.ListDatastoresResponse:
        shown = [await self._show(found.id) for found in self._datastores.list()]
        return image_pb2.ListDatastoresResponse(datastores=shown)

    async def Show(self, request: image_pb2.ShowDatastoreRequest, context: Any) -> image_pb2.Datastore:
        return await self._show(ref(request.datastore))

    async def _show(self, named: int | str) -> image_pb2.Datastore:
        found = self._datastores.show(named)
        usage = await self._datastores.usage(found)
        return self._projector.datastore(found, self._datastores.images(found.id), usage)


def _one_or_all(request: zone_pb2.VerifyRequest | zone_pb2.ListLostRequest) -> int | str | None:
    return ref(request.zone) if request.HasField("zone") else None


async def _next(
    request: AsyncIterator[image_pb2.ImportImageRequest], idle_seconds: float
) -> image_pb2.ImportImageRequest | None:
    """Return the client's next message, None at the end. Raises Timeout: a client that says nothing holds no space."""
    try:
        async with asyncio.timeout(idle_seconds):
            return await anext(request, None)
    except TimeoutError:
        raise Timeout(f"nothing came from the client for {idle_seconds:g} s: import the image again") from None


async def _data(request: AsyncIterator[image_pb2.ImportImageRequest], idle_seconds: float) -> AsyncIterator[bytes]:
    while (part := await _next(request, idle_seconds)) is not None:
        if part.WhichOneof("part") != "data":
            raise BadInput("after its start an import holds data only: send ImportStart once")
        yield part.data
