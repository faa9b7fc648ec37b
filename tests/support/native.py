"""The native gRPC API as a program uses it: plain stubs, and short forms of what tests set up by the dozen."""

import base64
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import grpc
import pytest

from fedmarket.pb.fedmarket.v1 import app_pb2, image_pb2, job_pb2, market_pb2, zone_pb2
from fedmarket.pb.fedmarket.v1.app_pb2_grpc import AppServiceStub
from fedmarket.pb.fedmarket.v1.change_pb2 import ChangeRequest, ChangeResponse, Delete, Verb
from fedmarket.pb.fedmarket.v1.change_pb2_grpc import ChangeServiceStub
from fedmarket.pb.fedmarket.v1.common_pb2 import SCOPE_FEDERATION, Ref, Scope
from fedmarket.pb.fedmarket.v1.image_pb2_grpc import DatastoreServiceStub, ImageServiceStub
from fedmarket.pb.fedmarket.v1.job_pb2_grpc import JobServiceStub
from fedmarket.pb.fedmarket.v1.market_pb2_grpc import MarketServiceStub
from fedmarket.pb.fedmarket.v1.zone_pb2_grpc import FederationServiceStub, ZoneServiceStub

SECONDS = 60.0
BLOCK = 1 << 20
OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]

Q = TypeVar("Q")
A = TypeVar("A")


class Native:
    """One channel to an agent, and who asks."""

    def __init__(self, address: str, credentials: str) -> None:
        self.channel = grpc.insecure_channel(address, OPTIONS)
        self.metadata = (("authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}"),)
        self.zones = ZoneServiceStub(self.channel)
        self.federation = FederationServiceStub(self.channel)
        self.markets = MarketServiceStub(self.channel)
        self.apps = AppServiceStub(self.channel)
        self.images = ImageServiceStub(self.channel)
        self.datastores = DatastoreServiceStub(self.channel)
        self.jobs = JobServiceStub(self.channel)
        self.changes = ChangeServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()

    def call(self, method: "Callable[..., A]", request: object) -> A:
        """Call a method, and wait for its answer."""
        return method(request, metadata=self.metadata, timeout=SECONDS)

    def change(self, kind: str, which: int | str, verb: Verb, request_id: str = "") -> ChangeResponse:
        """Change a record of any zone."""
        request = ChangeRequest(kind=kind, ref=ref(which), verb=verb, request_id=request_id)
        return self.call(self.changes.Change, request)

    # -- asking

    def status(self) -> zone_pb2.FederationStatusResponse:
        return self.call(self.federation.Status, zone_pb2.FederationStatusRequest())

    def app(self, which: int | str) -> app_pb2.App:
        return self.call(self.apps.Show, app_pb2.ShowAppRequest(app=ref(which)))

    def image(self, which: int | str) -> image_pb2.Image:
        return self.call(self.images.Show, image_pb2.ShowImageRequest(image=ref(which)))

    def market(self, which: int | str) -> market_pb2.Market:
        return self.call(self.markets.Show, market_pb2.ShowMarketRequest(market=ref(which)))

    def app_names(self) -> list[str]:
        return [app.name for app in self.call(self.apps.List, app_pb2.ListAppsRequest()).apps]

    def image_names(self) -> list[str]:
        return [image.name for image in self.call(self.images.List, image_pb2.ListImagesRequest()).images]

    def market_names(self) -> list[str]:
        return [market.name for market in self.call(self.markets.List, market_pb2.ListMarketsRequest()).markets]

    # -- changing

    def create_market(
        self, name: str, scope: Scope.ValueType = SCOPE_FEDERATION, **attributes: str
    ) -> market_pb2.Market:
        request = market_pb2.CreateMarketRequest(name=name, driver="http", scope=scope, attributes=attributes)
        return self.call(self.markets.Create, request)

    def import_image(self, name: str, content: "bytes | Path") -> image_pb2.Image:
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        return self.call(self.images.Import, parts(name, size, blocks(content)))

    def begin_app(self, name: str, image: int | str, market: int | str) -> app_pb2.CreateAppResponse:
        request = app_pb2.CreateAppRequest(name=name, image=ref(image), market=ref(market))
        return self.call(self.apps.Create, request)

    def create_app(self, name: str, image: int | str, market: int | str) -> app_pb2.App:
        """Create an app and wait until it is READY."""
        begun = self.begin_app(name, image, market)
        ended = self.wait(begun.job_id)
        assert ended.state == job_pb2.JOB_STATE_DONE, ended
        return self.app(begun.app.id)

    def begin_export(self, app: int | str, name: str, to_format: str = "") -> app_pb2.ExportAppResponse:
        request = app_pb2.ExportAppRequest(app=ref(app), datastore=ref("default"), name=name, format=to_format)
        return self.call(self.apps.Export, request)

    def export(self, app: int | str, name: str, to_format: str = "") -> image_pb2.Image:
        """Export an app and wait until the image is READY."""
        begun = self.begin_export(app, name, to_format)
        ended = self.wait(begun.job_id)
        assert ended.state == job_pb2.JOB_STATE_DONE, ended
        return self.image(begun.image.id)

    def wait(self, job_id: str) -> job_pb2.Job:
        """Watch a job, and return it as it ended."""
        *_, last = self.call(self.jobs.Watch, job_pb2.WatchJobRequest(id=job_id))
        return last

    def delete_app(self, which: int | str) -> None:
        self.change("app", which, Verb(delete=Delete()))

    def delete_image(self, which: int | str) -> None:
        self.change("image", which, Verb(delete=Delete()))

    def delete_market(self, which: int | str) -> None:
        self.change("market", which, Verb(delete=Delete()))


def ref(which: int | str) -> Ref:
    return Ref(id=which) if isinstance(which, int) else Ref(name=which)


def blocks(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield from (content[at : at + BLOCK] for at in range(0, len(content), BLOCK))
        return
    with content.open("rb") as file:
        yield from iter(lambda: file.read(BLOCK), b"")


def parts(
    name: str, size: int, data: Iterable[bytes], datastore: str = "default"
) -> Iterator[image_pb2.ImportImageRequest]:
    """Yield the messages of an import: what is announced, then what comes."""
    start = image_pb2.ImportStart(name=name, datastore=ref(datastore), size_bytes=size, path=name)
    yield image_pb2.ImportImageRequest(start=start)
    for block in data:
        yield image_pb2.ImportImageRequest(data=block)


def code(error: grpc.RpcError) -> str:
    """Return our own code of a refusal."""
    return trailers(error).get("fedmarket-code", "")


def trailers(error: grpc.RpcError) -> dict[str, str]:
    """Return the trailing metadata of a refusal."""
    return {key: str(value) for key, value in cast(grpc.Call, error).trailing_metadata() or ()}


@contextmanager
def refused(status: grpc.StatusCode, cause: str = "") -> Iterator[list[grpc.RpcError]]:
    """Expect a call to be refused with a status and, unless gRPC itself refuses, with our own code."""
    seen: list[grpc.RpcError] = []
    with pytest.raises(grpc.RpcError) as caught:
        yield seen
    error = caught.value
    assert (error.code(), code(error)) == (status, cause), error
    seen.append(error)
