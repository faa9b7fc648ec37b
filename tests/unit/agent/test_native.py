"""The native face: errors reach the client as they are, and every page fits a message."""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from federation.draft import Draft
from fedmarket.errors import FedmarketError, NotHome, Refused
from fedmarket.pb.fedmarket.v1 import app_pb2
from fedmarket.pb.fedmarket.v1.app_pb2_grpc import AppServiceServicer, AppServiceStub, add_AppServiceServicer_to_server
from fedmarket.pb.fedmarket.v1.common_pb2 import Page
from fedmarket.pb.fedmarket.v1.record_pb2 import AppRecord
from tests.support.agent import AgentZone
from zone_agent.faces.native.gate import Gate, caller
from zone_agent.faces.native.project import Projector, paged
from zone_agent.identity.credentials import Credentials
from zone_agent.stores import template_of

METADATA = (("authorization", "Basic " + base64.b64encode(b"oneadmin:secret").decode()),)
CREDENTIALS = Credentials(0, "oneadmin", "secret")


Servicer: Any = AppServiceServicer  # of which only two methods are called here


class Answer(Servicer):  # type: ignore[misc] # its base is any
    """Answers Show, and Download after one message, by raising what it is given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.ended = asyncio.Event()

    async def Show(self, request: app_pb2.ShowAppRequest, context: Any) -> app_pb2.App:  # noqa: N802
        if self.error is not None:
            raise self.error
        return app_pb2.App(owner_id=caller().uid)

    async def Download(  # noqa: N802
        self, request: app_pb2.DownloadAppRequest, context: Any
    ) -> AsyncIterator[app_pb2.DownloadAppResponse]:
        try:
            yield app_pb2.DownloadAppResponse(data=b"1")
            if self.error is not None:
                raise self.error
            await asyncio.Event().wait()
        finally:
            self.ended.set()


@asynccontextmanager
async def served(servicer: Answer) -> AsyncGenerator[Any, None]:
    server = aio.server(interceptors=[Gate(CREDENTIALS)])
    add_AppServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield AppServiceStub(channel)
    await server.stop(None)


async def refusal(call: Any) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as raised:
        await call
    return raised.value


async def test_who_is_known_is_let_in() -> None:
    async with served(Answer()) as stub:
        assert await stub.Show(app_pb2.ShowAppRequest(), metadata=METADATA, timeout=5) == app_pb2.App()


@pytest.mark.parametrize(
    "given", ["", "Basic", "Basic !", "Basic b25lYWRtaW46", "Bearer b25lYWRtaW46c2VjcmV0", "Basic " + "A" * 4000]
)
async def test_who_is_not_known_is_told_only_that(given: str) -> None:
    async with served(Answer()) as stub:
        error = await refusal(stub.Show(app_pb2.ShowAppRequest(), metadata=(("authorization", given),), timeout=5))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "secret" not in (error.details() or "")


@pytest.mark.parametrize("endpoint", ["berlin:7634", "bërlin:7634", "berlin\n:7634", "b" * 20_000])
async def test_a_refusal_arrives_whatever_another_zone_calls_itself(endpoint: str) -> None:
    error = NotHome("ask there", home_zone="7", home_endpoint=endpoint)
    async with served(Answer(error)) as stub:
        got = await refusal(stub.Show(app_pb2.ShowAppRequest(), metadata=METADATA, timeout=5))

    assert (got.code(), got.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "ask there")
    assert dict(got.trailing_metadata() or ())["fedmarket-code"] == "not-home"


async def test_a_very_long_reason_still_arrives_as_what_it_is() -> None:
    async with served(Answer(Refused("so long: " + "x" * 100_000))) as stub:
        got = await refusal(stub.Show(app_pb2.ShowAppRequest(), metadata=METADATA, timeout=5))

    assert got.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_fault_of_ours_tells_nothing_of_itself() -> None:
    async with served(Answer(ZeroDivisionError("inner"))) as stub:
        got = await refusal(stub.Show(app_pb2.ShowAppRequest(), metadata=METADATA, timeout=5))

    assert got.code() is grpc.StatusCode.INTERNAL
    assert "inner" not in (got.details() or "")


@pytest.mark.parametrize("error", [Refused("enough"), FedmarketError("ours")])
async def test_an_error_in_a_stream_comes_after_what_was_good(error: FedmarketError) -> None:
    async with served(Answer(error)) as stub:
        call = stub.Download(app_pb2.DownloadAppRequest(), metadata=METADATA, timeout=5)
        first = await call.read()
        got = await refusal(call.read())

    assert (first, got.details()) == (app_pb2.DownloadAppResponse(data=b"1"), error.message)


async def test_a_stream_whose_reader_goes_away_is_closed() -> None:
    answer = Answer()
    async with served(answer) as stub:
        call = stub.Download(app_pb2.DownloadAppRequest(), metadata=METADATA, timeout=5)
        await call.read()
        call.cancel()
        async with asyncio.timeout(5):
            await answer.ended.wait()


def described(size: int) -> Callable[[Draft], None]:
    def change(draft: Draft) -> None:
        for n in range(50):
            draft.create(AppRecord(name=f"app {n}", template=template_of({"DESCRIPTION": "d" * size})))

    return change


async def test_pages_of_large_records_fit_a_message_and_leave_none_out(tmp_path: Path) -> None:
    async with AgentZone(tmp_path) as zone:
        for _ in range(10):
            await zone.catalogs.change(described(15_000), private=False)
        projector = Projector(zone.view)
        after, seen, sizes = -1, [], []
        while True:
            found, after = paged(Page(after=after), zone.apps.list, projector.app)
            page = app_pb2.ListAppsResponse(apps=found, next=after)
            sizes.append(page.ByteSize())
            seen += [app.id for app in page.apps]
            if after < 0:
                break

    assert seen == list(range(100, 600))
    assert max(sizes) < 4 << 20
