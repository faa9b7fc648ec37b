"""Watches of a server that does what a broken, lagging or hostile etcd does."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from federation.etcd.auth import Login
from federation.etcd.client import Settings, dial
from federation.etcd.store import EtcdStore
from federation.store import Compacted
from fedmarket.errors import Denied
from fedmarket.pb.etcd import rpc_pb2 as rpc
from fedmarket.pb.etcd import rpc_pb2_grpc as stubs
from fedmarket.pb.etcd.kv_pb2 import Event, KeyValue
from fedmarket.retry import Backoff
from tests.support.waiting import eventually

SETTINGS = Settings(
    call_seconds=5.0,
    progress_seconds=0.1,
    silence_seconds=0.1,
    reconnect=Backoff(first_seconds=0.05, longest_seconds=0.2),
)
CREATED = rpc.WatchResponse(created=True)


def answer_range(request: rpc.RangeRequest, context: Any) -> rpc.RangeResponse:
    """Answer as a store that has come far and still holds what was watched."""
    held = KeyValue(key=request.key, value=b"v", mod_revision=request.revision)
    return rpc.RangeResponse(header=rpc.ResponseHeader(revision=10_000), kvs=[held])


def unary(service: str, method: str, answer: Any, request: Any) -> grpc.GenericRpcHandler:
    """Return the handler of one call of a service that has no other."""
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=request.FromString, response_serializer=lambda message: message.SerializeToString()
    )
    return grpc.method_handlers_generic_handler(service, {method: handler})


HANG = object()
"""In a script: say nothing more."""

Script = list[rpc.WatchResponse | object]


class FakeEtcd(stubs.WatchServicer):
    """Answers the n-th watch with the n-th script, then ends the stream; after the last script, hangs."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.created: list[rpc.WatchCreateRequest] = []
        self.tokens: list[str] = []
        self.logins = 0
        self.sent = 0
        self.open = 0

    async def Watch(  # noqa: N802 -- named by etcd
        self, request_iterator: AsyncIterator[rpc.WatchRequest], context: Any
    ) -> AsyncIterator[rpc.WatchResponse]:
        self.created.append((await anext(request_iterator)).create_request)
        self.tokens.append(dict(context.invocation_metadata()).get("token", ""))
        self.open += 1
        try:
            for step in self.scripts.pop(0) if self.scripts else [HANG]:
                if not isinstance(step, rpc.WatchResponse):
                    await asyncio.Event().wait()
                else:
                    yield step
                    self.sent += 1
        finally:
            self.open -= 1

    async def log_in(self, request: rpc.AuthenticateRequest, context: Any) -> rpc.AuthenticateResponse:
        self.logins += 1
        return rpc.AuthenticateResponse(token=f"token-{self.logins}")


@asynccontextmanager
async def serving(fake: FakeEtcd, login: Login | None = None) -> AsyncIterator[EtcdStore]:
    server = aio.server()
    stubs.add_WatchServicer_to_server(fake, server)
    ranges = unary("etcdserverpb.KV", "Range", answer_range, rpc.RangeRequest)
    logins = unary("etcdserverpb.Auth", "Authenticate", fake.log_in, rpc.AuthenticateRequest)
    server.add_generic_rpc_handlers((ranges, logins))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with dial([f"127.0.0.1:{port}"], SETTINGS, login=login) as client:
            yield EtcdStore(client)
    finally:
        await server.stop(None)


def changed(*revisions: int, fragment: bool = False, header: int = 0) -> rpc.WatchResponse:
    events = [Event(kv=KeyValue(key=b"k", value=b"v", mod_revision=revision)) for revision in revisions]
    return rpc.WatchResponse(events=events, fragment=fragment, header=rpc.ResponseHeader(revision=header))


def canceled(reason: str = "", compact_revision: int = 0) -> rpc.WatchResponse:
    return rpc.WatchResponse(canceled=True, cancel_reason=reason, compact_revision=compact_revision)


async def take(store: EtcdStore, start: int, count: int) -> list[int]:
    """Return the first `count` revisions of a watch."""
    async with aclosing(store.watch("k", start)) as watch:
        return [(await anext(watch)).revision for _ in range(count)]


async def test_a_watch_goes_on_after_the_last_complete_revision_not_after_the_header() -> None:
    fake = FakeEtcd([CREATED, changed(5, 6, header=1000)], [CREATED, changed(7), HANG])
    async with serving(fake) as store:
        assert await take(store, 5, 3) == [5, 6, 7]
    assert [request.start_revision for request in fake.created] == [5, 7]


async def test_a_revision_that_was_cut_off_in_the_middle_is_asked_for_again() -> None:
    fake = FakeEtcd(
        [CREATED, changed(5, 6, fragment=True)],  # 6 is not known to be whole when the stream ends
        [CREATED, changed(6, 6), HANG],
    )
    async with serving(fake) as store, aclosing(store.watch("k", 5)) as watch:
        assert [(await anext(watch)).revision for _ in range(2)] == [5, 6]
    assert [request.start_revision for request in fake.created] == [5, 6]


async def test_a_lagging_member_that_repeats_itself_makes_no_duplicates() -> None:
    fake = FakeEtcd([CREATED, changed(5, 6)], [CREATED, changed(3, 4, 5, 6, header=6), changed(6, 7, header=7), HANG])
    async with serving(fake) as store:
        assert await take(store, 5, 3) == [5, 6, 7]


async def test_a_watch_asks_for_fragments() -> None:
    fake = FakeEtcd([CREATED, changed(5), HANG])
    async with serving(fake) as store:
        await take(store, 5, 1)
    assert fake.created[0].fragment


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([], id="ends without a word"),
        pytest.param([HANG], id="is never created"),
        pytest.param([CREATED], id="ends at once"),
        pytest.param([CREATED, HANG], id="falls silent"),
        pytest.param([canceled("etcdserver: no leader")], id="has no leader"),
        pytest.param([CREATED, canceled("something new")], id="cancels for an unknown reason"),
        pytest.param([CREATED, canceled()], id="cancels without a reason"),
    ],
)
async def test_a_watch_tries_again_when_the_server(script: Script) -> None:
    fake = FakeEtcd(script, script, [CREATED, changed(5), HANG])
    async with serving(fake) as store:
        assert await take(store, 5, 1) == [5]
    assert [request.start_revision for request in fake.created] == [5, 5, 5]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (canceled(compact_revision=9), Compacted),
        (canceled("etcdserver: mvcc: required revision has been compacted", compact_revision=9), Compacted),
        (canceled("rpc error: code = PermissionDenied desc = etcdserver: permission denied"), Denied),
    ],
)
@pytest.mark.parametrize("before", [[], [CREATED]], ids=["on create", "later"])
async def test_a_watch_ends_when_trying_again_cannot_help(
    before: Script, response: rpc.WatchResponse, expected: type[Exception]
) -> None:
    fake = FakeEtcd([*before, response])
    async with serving(fake) as store, aclosing(store.watch("k", 5)) as watch:
        with pytest.raises(expected):
            await anext(watch)
    assert len(fake.created) == 1


async def test_a_member_that_does_not_know_the_token_is_no_denial_but_a_second_one_is() -> None:
    """etcd 3.4 says "permission denied" to a watch whose token it has forgotten, which any other call would tell."""
    denied = canceled("etcdserver: permission denied")
    fake = FakeEtcd([denied], [CREATED, changed(5)], [denied], [CREATED, changed(6)], [denied], [denied])
    async with serving(fake, Login("user", "password")) as store, aclosing(store.watch("k", 5)) as watch:
        assert [(await anext(watch)).revision for _ in range(2)] == [5, 6]
        with pytest.raises(Denied):
            await anext(watch)
    assert fake.tokens == ["token-1", "token-2", "token-2", "token-3", "token-3", "token-4"]


async def test_an_outage_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "federation.etcd.watch")
    fake = FakeEtcd([], [CREATED], [], [CREATED, changed(5), HANG])
    async with serving(fake) as store:
        await take(store, 5, 1)
    messages = [record.getMessage() for record in caplog.records if record.name == "federation.etcd.watch"]
    assert len(messages) == 2
    assert "interrupted" in messages[0]
    assert "goes on after" in messages[1]
    assert "3 tries" in messages[1]


async def test_the_pauses_between_tries_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[int] = []
    delay = Backoff.delay

    def recorded(self: Backoff, count: int) -> float:
        failures.append(count)
        return delay(self, count, lambda: 0.01)

    monkeypatch.setattr(Backoff, "delay", recorded)
    fake = FakeEtcd([], [CREATED], [], [CREATED, changed(5)], [], [CREATED, changed(6), HANG])
    async with serving(fake) as store:
        assert await take(store, 5, 2) == [5, 6]
    assert failures == [1, 2, 3, 1, 2]


async def test_closing_a_watch_closes_its_stream() -> None:
    fake = FakeEtcd([CREATED, changed(5), HANG])
    async with serving(fake) as store:
        await take(store, 5, 1)
        await eventually(lambda: fake.open == 0)


async def test_cancelling_a_watch_that_waits_closes_its_stream() -> None:
    fake = FakeEtcd([CREATED, HANG])
    async with serving(fake) as store, aclosing(store.watch("k", 5)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        await eventually(lambda: fake.open == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await eventually(lambda: fake.open == 0)


async def test_a_slow_reader_holds_the_server_back() -> None:
    """What is sent and not taken fills the windows of the connection, a few MiB, and no memory of ours."""
    count = 200
    big = [
        rpc.WatchResponse(events=[Event(kv=KeyValue(key=b"k", value=b"x" * 2**20, mod_revision=revision))])
        for revision in range(5, 5 + count)
    ]
    fake = FakeEtcd([CREATED, *big, HANG])
    lead = 0
    async with serving(fake) as store, aclosing(store.watch("k", 5)) as watch:
        for taken in range(count):
            await anext(watch)
            await asyncio.sleep(0.002)
            lead = max(lead, fake.sent - taken)
    assert lead < count / 4
