"""An agent that answers what a test says: for what the command prints and does, not for what an agent is."""

import base64
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from fedmarket.errors import FedmarketError, NotFound, Unauthenticated, cause_of
from fedmarket.pb.fedmarket.v1 import (
    app_pb2,
    app_pb2_grpc,
    change_pb2,
    change_pb2_grpc,
    common_pb2,
    image_pb2,
    image_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    market_pb2,
    market_pb2_grpc,
    peer_pb2,
    record_pb2,
    zone_pb2,
    zone_pb2_grpc,
)

PAGE_SIZE = 3
CREDENTIALS = "oneadmin:a secret: with colons"
BLOCK = 1 << 20

Context = Any


class FakeAgent:
    """The server, what it was asked, and what it is to answer."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.zones = [zone_pb2.Zone(id=0, name="berlin", local=True, grpc_endpoint="127.0.0.1:7634")]
        self.exported: list[peer_pb2.Commit] = []
        self.repaired: list[zone_pb2.CatalogRepair] = []
        self.links: list[zone_pb2.Link] = []
        self.scrub = zone_pb2.ScrubSummary()
        self.alarms: list[str] = []
        self.checks: list[zone_pb2.CatalogCheck] = []
        self.endless = False
        """Whether Verify goes on after its checks, as where a peer does not answer."""
        self.lost: list[zone_pb2.LostRecord] = []
        self.lost_value = b""
        self.datastores = [image_pb2.Datastore(id=1, name="default", driver="fs", total_mb=2048, free_mb=512)]
        self.markets: list[market_pb2.Market] = []
        self.images: list[image_pb2.Image] = []
        self.apps: list[app_pb2.App] = []
        self.jobs: list[job_pb2.Job] = []
        self.blob = b""
        self.asked: list[Any] = []
        self.was_asked = threading.Event()
        self.imported = b""
        self.import_ended = threading.Event()
        self.import_was_whole = False
        self.error: FedmarketError | None = None
        """Raised by every call."""
        self.visible = True
        """Whether changes are seen where they are asked for when they are answered."""
        self.silent = False
        """Answer nothing until the caller gives up."""
        self.watches: list[Callable[[Context], Iterator[job_pb2.Job]]] = []
        """One per Watch, the last for all further ones."""
        self.downloads: list[Callable[[int, Context], Iterator[bytes]]] = []
        """One per Download; without any, all bytes from the offset on."""
        self._server = grpc.server(ThreadPoolExecutor(4))
        zone_pb2_grpc.add_ZoneServiceServicer_to_server(_Zones(self), self._server)
        zone_pb2_grpc.add_FederationServiceServicer_to_server(_Federation(self), self._server)
        image_pb2_grpc.add_DatastoreServiceServicer_to_server(_Datastores(self), self._server)
        image_pb2_grpc.add_ImageServiceServicer_to_server(_Images(self), self._server)
        market_pb2_grpc.add_MarketServiceServicer_to_server(_Markets(self), self._server)
        change_pb2_grpc.add_ChangeServiceServicer_to_server(_Changes(self), self._server)
        app_pb2_grpc.add_AppServiceServicer_to_server(_Apps(self), self._server)
        job_pb2_grpc.add_JobServiceServicer_to_server(_Jobs(self), self._server)
        if credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.stop(None).wait()

    def set_blob(self, blob: bytes) -> None:
        """Let every app have these bytes."""
        self.blob = blob
        for app in self.apps:
            app.size_bytes = len(blob)
            app.sha256 = hashlib.sha256(blob).hexdigest()

    def enter(self, request: Any, context: Context) -> None:
        """What every call begins with."""
        self.asked.append(request)
        self.was_asked.set()
        given = dict(context.invocation_metadata()).get("authorization")
        if given != f"Basic {base64.b64encode(CREDENTIALS.encode()).decode()}":
            self.fail(Unauthenticated("the user or the secret is wrong: check the credentials file"), context)
        if self.error is not None:
            self.fail(self.error, context)
        if self.silent:
            self.wait_for_end(context)

    def fail(self, error: FedmarketError, context: Context) -> None:
        cause = cause_of(error)
        context.set_trailing_metadata((("fedmarket-code", cause.code),))
        context.abort(grpc.StatusCode[cause.grpc], error.message)

    @staticmethod
    def wait_for_end(context: Context) -> None:
        """Hold a call until its caller is gone or the server stops."""
        gone = threading.Event()
        if context.add_callback(gone.set):
            gone.wait(30)

    def find(self, things: list[Any], ref: common_pb2.Ref, context: Context) -> Any:
        for thing in things:
            if (ref.HasField("id") and thing.id == ref.id) or (ref.HasField("name") and thing.name == ref.name):
                return thing
        self.fail(NotFound(f"there is no {ref.name or ref.id}: list what there is"), context)
        raise AssertionError

    @staticmethod
    def page(things: list[Any], page: common_pb2.Page) -> tuple[list[Any], int]:
        rest = [thing for thing in things if not page.HasField("after") or thing.id > page.after]
        shown = rest[: page.size or PAGE_SIZE]
        return shown, shown[-1].id if len(rest) > len(shown) else -1


class _Service:
    def __init__(self, agent: FakeAgent) -> None:
        self.agent = agent


class _Zones(_Service, zone_pb2_grpc.ZoneServiceServicer):
    def List(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return zone_pb2.ListZonesResponse(zones=self.agent.zones)

    def Show(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        if not request.HasField("zone"):
            return self.agent.zones[0]
        return self.agent.find(self.agent.zones, request.zone, context)

    def Export(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        yield from self.agent.exported

    def Repair(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return zone_pb2.RepairZoneResponse(catalogs=self.agent.repaired)


class _Federation(_Service, zone_pb2_grpc.FederationServiceServicer):
    def Status(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return zone_pb2.FederationStatusResponse(
            self=self.agent.zones[0], links=self.agent.links, scrub=self.agent.scrub, alarms=self.agent.alarms
        )

    def Verify(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        yield from self.agent.checks
        if self.agent.endless:
            self.agent.wait_for_end(context)

    def Retry(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return self.agent.links[0]

    def Lost(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        yield from self.agent.lost

    def ShowLost(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return zone_pb2.ShowLostResponse(lost=self.agent.lost[0], value=self.agent.lost_value)

    def Forget(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return zone_pb2.ForgetResponse(zone_id=request.zone.id, keys=7)


class _Datastores(_Service, image_pb2_grpc.DatastoreServiceServicer):
    def List(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return image_pb2.ListDatastoresResponse(datastores=self.agent.datastores)

    def Show(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return self.agent.find(self.agent.datastores, request.datastore, context)


class _Images(_Service, image_pb2_grpc.ImageServiceServicer):
    def Import(self, request_iterator: Any, context: Context) -> Any:  # noqa: N802
        if not context.add_callback(self.agent.import_ended.set):
            self.agent.import_ended.set()  # its client had gone before this thread came to it
        start = next(request_iterator).start
        self.agent.enter(start, context)
        for message in request_iterator:
            self.agent.imported += message.data
        self.agent.import_was_whole = context.is_active() and len(self.agent.imported) == start.size_bytes
        image = image_pb2.Image(
            id=len(self.agent.images),
            name=start.name,
            type=start.type,
            state=record_pb2.IMAGE_STATE_READY,
            size_bytes=start.size_bytes,
            sha256=hashlib.sha256(self.agent.imported).hexdigest(),
        )
        self.agent.images.append(image)
        return image

    def List(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        images, following = self.agent.page(self.agent.images, request.page)
        return image_pb2.ListImagesResponse(images=images, next=following)

    def Show(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return self.agent.find(self.agent.images, request.image, context)

    def Clone(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        image = image_pb2.Image()
        image.CopyFrom(self.agent.find(self.agent.images, request.image, context))
        image.state = record_pb2.IMAGE_STATE_LOCKED
        return image_pb2.CloneImageResponse(image=image, job_id="job-1")


class _Markets(_Service, market_pb2_grpc.MarketServiceServicer):
    def Create(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return market_pb2.Market(
            id=100, name=request.name, driver=request.driver, scope=request.scope, attributes=request.attributes
        )

    def List(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        markets, following = self.agent.page(self.agent.markets, request.page)
        return market_pb2.ListMarketsResponse(markets=markets, next=following)

    def Show(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return self.agent.find(self.agent.markets, request.market, context)


class _Changes(_Service, change_pb2_grpc.ChangeServiceServicer):
    def Change(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        things: dict[str, list[Any]] = {
            "market": self.agent.markets,
            "app": self.agent.apps,
            "image": self.agent.images,
        }
        found = self.agent.find(things[request.kind], request.ref, context)
        return change_pb2.ChangeResponse(id=found.id, visible=self.agent.visible, request_id=request.request_id)

    def Resolve(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return change_pb2.ResolveResponse(done=True, id=100)


class _Apps(_Service, app_pb2_grpc.AppServiceServicer):
    def Create(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return app_pb2.CreateAppResponse(app=_locked(self.agent.apps[0]), job_id="job-1")

    def Export(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        image = image_pb2.Image()
        image.CopyFrom(self.agent.images[0])
        image.state = record_pb2.IMAGE_STATE_LOCKED
        return app_pb2.ExportAppResponse(image=image, job_id="job-1")

    def List(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        apps, following = self.agent.page(self.agent.apps, request.page)
        return app_pb2.ListAppsResponse(apps=apps, next=following)

    def Show(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return self.agent.find(self.agent.apps, request.app, context)

    def Fetch(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return app_pb2.FetchAppResponse(path=f"/downloads/{request.file}", job_id="job-1")

    def Download(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        app = self.agent.find(self.agent.apps, request.app, context)
        yield app_pb2.DownloadAppResponse(start=app_pb2.DownloadStart(app=app))
        send = self.agent.downloads.pop(0) if self.agent.downloads else self._all
        for block in send(request.offset, context):
            yield app_pb2.DownloadAppResponse(data=block)

    def _all(self, offset: int, context: Context) -> Iterator[bytes]:
        for at in range(offset, len(self.agent.blob), BLOCK):
            yield self.agent.blob[at : at + BLOCK]


class _Jobs(_Service, job_pb2_grpc.JobServiceServicer):
    def List(self, request: Any, context: Context) -> Any:  # noqa: N802
        asked = job_pb2.ListJobsRequest()
        asked.CopyFrom(request)
        self.agent.enter(asked, context)
        found = [job for job in self.agent.jobs if not request.states or job.state in request.states]
        begin = next((at + 1 for at, job in enumerate(found) if job.id == request.after), 0)
        page = found[begin : begin + PAGE_SIZE]
        return job_pb2.ListJobsResponse(jobs=page, next=page[-1].id if found[begin + PAGE_SIZE :] else "")

    def Show(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        return next(job for job in self.agent.jobs if job.id == request.id)

    def Cancel(self, request: Any, context: Context) -> Any:  # noqa: N802
        return self.Show(request, context)

    def Retry(self, request: Any, context: Context) -> Any:  # noqa: N802
        return self.Show(request, context)

    def Watch(self, request: Any, context: Context) -> Any:  # noqa: N802
        self.agent.enter(request, context)
        watch = self.agent.watches.pop(0) if len(self.agent.watches) > 1 else self.agent.watches[0]
        yield from watch(context)


def _locked(app: app_pb2.App) -> app_pb2.App:
    locked = app_pb2.App()
    locked.CopyFrom(app)
    locked.state = record_pb2.APP_STATE_LOCKED
    return locked
