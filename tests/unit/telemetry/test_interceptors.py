"""Both sides of gRPC calls, over real connections: whose child each span is, with which status, and what is counted."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from fedmarket import telemetry
from fedmarket.pb.fedmarket.v1.peer_pb2 import (
    Commit,
    ForwardRequest,
    ForwardResponse,
    FromSource,
    LocateRequest,
    LocateResponse,
    RecoverRequest,
    SettleRequest,
)
from fedmarket.pb.fedmarket.v1.peer_pb2_grpc import (
    PeerServiceServicer,
    PeerServiceStub,
    add_PeerServiceServicer_to_server,
)
from zone_agent.telemetry import grpc_command
from zone_agent.telemetry.grpc_client import interceptors
from zone_agent.telemetry.grpc_server import Observer
from zone_agent.telemetry.instruments import REGISTRY

LOCATE = "fedmarket.v1.PeerService/Locate"
RECOVER = "fedmarket.v1.PeerService/Recover"
FOLLOW = "fedmarket.v1.PeerService/Follow"
ELSEWHERE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Peer(PeerServiceServicer):
    """Answers by the id that is asked for."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def Locate(self, request: LocateRequest, context: Any) -> LocateResponse:  # noqa: N802 - grpc's name
        self.asked.set()
        if request.app_id == 1:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is none")
        if request.app_id == 2:
            raise ValueError("hunter2")
        if request.app_id == 3:
            await asyncio.Event().wait()
        with telemetry.span("inner"):
            return LocateResponse(size_bytes=7)

    async def Recover(self, request: RecoverRequest, context: Any) -> AsyncIterator[Commit]:  # noqa: N802 - grpc's name
        yield Commit()
        with telemetry.span("inner"):
            yield Commit()

    async def Forward(self, request: ForwardRequest, context: Any) -> ForwardResponse:  # noqa: N802 - grpc's name
        return ForwardResponse()

    async def Settle(self, request: SettleRequest, context: Any) -> ForwardResponse:  # noqa: N802 - grpc's name
        return ForwardResponse()

    async def Follow(  # type: ignore[override]  # noqa: N802 - as in the face
        self, request_iterator: Any, context: Any
    ) -> None:
        await context.write(FromSource())


class Served:
    """A server, and what it is reached by."""

    def __init__(self, api: str) -> None:
        self.api = api
        self.peer = Peer()

    async def __aenter__(self) -> "Served":
        self._server = aio.server(interceptors=[Observer(self.api)])
        add_PeerServiceServicer_to_server(self.peer, self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        self._channel = aio.insecure_channel(self.target, interceptors=interceptors())
        self.stub = PeerServiceStub(self._channel)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._channel.close()
        await self._server.stop(None)

    def counted(self, method: str, code: str) -> float:
        labels = {"api": self.api, "method": method, "code": code}
        return REGISTRY.get_sample_value("fedmarket_requests_total", labels) or 0


def one(spans: InMemorySpanExporter, name: str, kind: SpanKind = SpanKind.INTERNAL) -> ReadableSpan:
    (found,) = [span for span in spans.get_finished_spans() if span.name == name and span.kind is kind]
    return found


async def seen(spans: InMemorySpanExporter, name: str, kind: SpanKind) -> ReadableSpan:
    """Return a span that ends when the other side comes to it."""
    async with asyncio.timeout(10):
        while not any(span.name == name and span.kind is kind for span in spans.get_finished_spans()):
            await asyncio.sleep(0.01)
    return one(spans, name, kind)


async def test_a_call_between_agents_is_of_one_trace(spans: InMemorySpanExporter) -> None:
    async with Served("one trace") as served:
        with telemetry.span("work"):
            assert (await served.stub.Locate(LocateRequest(), timeout=10)).size_bytes == 7
        server, client = await seen(spans, LOCATE, SpanKind.SERVER), one(spans, LOCATE, SpanKind.CLIENT)
        work, inner = one(spans, "work"), one(spans, "inner")
        assert [span.parent and span.parent.span_id for span in (client, server, inner)] == [
            span.context and span.context.span_id for span in (work, client, server)
        ]
        assert served.counted(LOCATE, "OK") == 1


async def test_a_stream_of_answers_is_one_span_on_each_side(spans: InMemorySpanExporter) -> None:
    async with Served("a stream") as served:
        call = served.stub.Recover(RecoverRequest(), timeout=10)
        assert [await call.read(), await call.read()] == [Commit(), Commit()]
        assert not isinstance(await call.read(), Commit)
        server, client = await seen(spans, RECOVER, SpanKind.SERVER), await seen(spans, RECOVER, SpanKind.CLIENT)
        assert server.parent is not None
        assert client.context is not None
        assert server.parent.span_id == client.context.span_id
        assert one(spans, "inner").parent == server.context
        assert client.status.status_code is StatusCode.UNSET


async def test_a_link_has_no_span_and_is_counted(spans: InMemorySpanExporter) -> None:
    async with Served("a link") as served:
        call = served.stub.Follow()
        assert await call.read() == FromSource()
        assert not isinstance(await call.read(), FromSource)
        assert served.counted(FOLLOW, "OK") == 1
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize(("app_id", "code", "fails"), [(1, "NOT_FOUND", False), (2, "UNKNOWN", True)])
async def test_a_refusal_is_the_callers_failure_and_a_crash_the_servers_too(
    spans: InMemorySpanExporter, app_id: int, code: str, fails: bool
) -> None:
    async with Served(f"refusal {app_id}") as served:
        with pytest.raises(aio.AioRpcError):
            await served.stub.Locate(LocateRequest(app_id=app_id), timeout=10)
        server, client = await seen(spans, LOCATE, SpanKind.SERVER), one(spans, LOCATE, SpanKind.CLIENT)
        for span in (server, client):
            assert (span.attributes or {})["rpc.response.status_code"] == code
            assert "hunter2" not in span.to_json()
        assert (server.status.status_code is StatusCode.ERROR) is fails
        assert client.status.status_code is StatusCode.ERROR
        assert served.counted(LOCATE, code) == 1


async def test_a_caller_that_has_gone_ends_both_spans(spans: InMemorySpanExporter) -> None:
    async with Served("gone") as served:
        call = asyncio.ensure_future(served.stub.Locate(LocateRequest(app_id=3), timeout=10))
        await served.peer.asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        server, client = await seen(spans, LOCATE, SpanKind.SERVER), await seen(spans, LOCATE, SpanKind.CLIENT)
        for span in (server, client):
            assert (span.attributes or {})["rpc.response.status_code"] == "CANCELLED"
        assert served.counted(LOCATE, "CANCELLED") == 1


@pytest.mark.parametrize("sent", ["garbage", f"ff{ELSEWHERE[2:]}", ELSEWHERE + "-more"])
async def test_a_malformed_traceparent_begins_a_trace(spans: InMemorySpanExporter, sent: str) -> None:
    async with Served("malformed") as served, aio.insecure_channel(served.target) as channel:
        stub = PeerServiceStub(channel)
        assert (await stub.Locate(LocateRequest(), metadata=(("traceparent", sent),), timeout=10)).size_bytes == 7
        assert (await seen(spans, LOCATE, SpanKind.SERVER)).parent is None


async def test_the_commands_calls_are_of_its_trace(spans: InMemorySpanExporter) -> None:
    async with Served("command") as served:

        def command() -> None:
            with telemetry.span("command"), grpc_command.observed(grpc.insecure_channel(served.target)) as channel:
                stub = PeerServiceStub(channel)
                stub.Locate(LocateRequest(), timeout=10, metadata=(("authorization", "Basic x"),))
                assert len(list(stub.Recover(RecoverRequest(), timeout=10))) == 2
                with pytest.raises(grpc.RpcError) as refusal:
                    stub.Locate(LocateRequest(app_id=1), timeout=10)
                assert refusal.value.code() is grpc.StatusCode.NOT_FOUND

        await asyncio.to_thread(command)
        await seen(spans, RECOVER, SpanKind.CLIENT)
        root = one(spans, "command")
        assert root.context is not None
        clients = [span for span in spans.get_finished_spans() if span.kind is SpanKind.CLIENT]
        assert [span.parent for span in clients] == [root.context] * 3
        codes = sorted(str((span.attributes or {})["rpc.response.status_code"]) for span in clients)
        assert codes == ["NOT_FOUND", "OK", "OK"]
        assert all("Basic" not in span.to_json() for span in spans.get_finished_spans())
        assert {span.context.trace_id for span in spans.get_finished_spans() if span.context} == {root.context.trace_id}


async def test_where_nobody_records_a_call_goes_as_it_is_and_is_counted() -> None:
    async with Served("off") as served:
        assert interceptors() == []
        assert (await served.stub.Locate(LocateRequest(), timeout=10)).size_bytes == 7
        with grpc.insecure_channel(served.target) as channel:
            assert grpc_command.observed(channel) is channel
        assert served.counted(LOCATE, "OK") == 1
