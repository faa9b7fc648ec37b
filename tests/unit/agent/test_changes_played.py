"""Every verb through the native API and the command line; and what a disabled market keeps from being done."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from grpc import aio

from federation.view import Found
from fedmarket.errors import AlreadyExists, Refused
from fedmarket.pb.fedmarket.v1 import app_pb2, change_pb2, image_pb2, market_pb2
from fedmarket.pb.fedmarket.v1.app_pb2_grpc import AppServiceStub, add_AppServiceServicer_to_server
from fedmarket.pb.fedmarket.v1.change_pb2 import (
    ChangeRequest,
    ChangeResponse,
    Chmod,
    Chown,
    Delete,
    Enable,
    Monitor,
    Rename,
    SetLock,
    Update,
    Verb,
)
from fedmarket.pb.fedmarket.v1.change_pb2_grpc import ChangeServiceStub, add_ChangeServiceServicer_to_server
from fedmarket.pb.fedmarket.v1.common_pb2 import SCOPE_ZONE, Ref
from fedmarket.pb.fedmarket.v1.image_pb2_grpc import ImageServiceStub, add_ImageServiceServicer_to_server
from fedmarket.pb.fedmarket.v1.market_pb2_grpc import MarketServiceStub, add_MarketServiceServicer_to_server
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_DISABLED,
    APP_STATE_LOCKED,
    APP_STATE_READY,
    LOCK_LEVEL_MANAGE,
    LOCK_LEVEL_NONE,
    LOCK_LEVEL_USE,
    AppRecord,
    MarketRecord,
)
from fedmarket.template import parse
from tests.support.agent import AgentZone
from tests.support.federation import Zone
from tests.support.forwarding import NoNetwork, changes_of
from zone_agent.cli.main import run
from zone_agent.faces.native.changes import Changes
from zone_agent.faces.native.gate import Gate
from zone_agent.faces.native.project import Projector
from zone_agent.faces.native.servicers import Apps, Images, Markets
from zone_agent.identity.credentials import Credentials
from zone_agent.services.changes import ChangeService
from zone_agent.services.locate import require_ready

SECONDS = 10.0
METADATA = (("authorization", "Basic " + base64.b64encode(b"oneadmin:secret").decode()),)
KINDS = ("market", "app", "image")


class Played:
    """An agent with one market, one app in it and its image, asked through its native API."""

    def __init__(self, zone: AgentZone, channel: aio.Channel, port: int) -> None:
        self.zone = zone
        self.port = port
        self._changes: Any = ChangeServiceStub(channel)
        self._markets: Any = MarketServiceStub(channel)
        self._apps: Any = AppServiceStub(channel)
        self._images: Any = ImageServiceStub(channel)

    async def change(self, kind: str, ref: str | int, verb: Verb, request_id: str = "") -> ChangeResponse:
        named = Ref(id=ref) if isinstance(ref, int) else Ref(name=ref)
        request = ChangeRequest(kind=kind, ref=named, verb=verb, request_id=request_id)
        changed: ChangeResponse = await self._changes.Change(request, metadata=METADATA, timeout=SECONDS)
        return changed

    async def show(self, kind: str, which: int) -> Any:
        asked = {
            "market": (self._markets.Show, market_pb2.ShowMarketRequest(market=Ref(id=which))),
            "app": (self._apps.Show, app_pb2.ShowAppRequest(app=Ref(id=which))),
            "image": (self._images.Show, image_pb2.ShowImageRequest(image=Ref(id=which))),
        }
        method, request = asked[kind]
        return await method(request, metadata=METADATA, timeout=SECONDS)

    async def app_states(self) -> list[int]:
        listed = await self._apps.List(app_pb2.ListAppsRequest(), metadata=METADATA, timeout=SECONDS)
        return [app.state for app in listed.apps]


async def made(zone: AgentZone) -> Found[AppRecord]:
    """Make a market `m`, and an app `a` in it from an image `i`."""
    await zone.market()
    await zone.image()
    app, job = await zone.apps.create(zone.admin, "a", "i", "m", description="as it was")
    async for _ in zone.job_service.watch(job.id):
        pass
    return zone.apps.show(app.id)


@pytest.fixture
async def played(tmp_path: Path) -> AsyncGenerator[Played, None]:
    async with AgentZone(tmp_path) as zone, aiohttp.ClientSession() as session:
        await made(zone)
        projector, server = Projector(zone.view), aio.server(interceptors=[Gate(Credentials(0, "oneadmin", "secret"))])
        images = Images(zone.images, zone.clones, projector, SECONDS)
        exports = zone.exports(session, lambda: "http://127.0.0.1:1")
        add_ChangeServiceServicer_to_server(Changes(changes_of(zone, NoNetwork()), None), server)  # type: ignore[arg-type] # nothing is resolved
        add_MarketServiceServicer_to_server(Markets(zone.markets, projector), server)
        add_AppServiceServicer_to_server(Apps(zone.apps, exports, zone.downloads, projector, images), server)
        add_ImageServiceServicer_to_server(images, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Played(zone, channel, port)
        await server.stop(None)


IDS = {"market": 100, "app": 100, "image": 0}
NAMES = {"market": "m", "app": "a", "image": "i"}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_verb_is_seen_as_soon_as_it_is_answered(played: Played, kind: str) -> None:
    which = IDS[kind]
    answer = await played.change(kind, NAMES[kind], Verb(rename=Rename(name="renamed")))
    assert (answer.id, answer.zone_id, answer.visible) == (which, 0, True)
    assert (await played.show(kind, which)).name == "renamed"

    await played.change(kind, which, Verb(chmod=Chmod(set=0o644, clear=0o133)))
    assert (await played.show(kind, which)).permissions == "um-u--u--"

    await played.change(kind, "renamed", Verb(chown=Chown(uid=1, gid=1)))
    shown = await played.show(kind, which)
    assert (shown.owner, shown.group) == ("serveradmin", "users")

    update = Update(template=parse('DESCRIPTION = "new"\nDISK = [ NAME = "d", APP = a ]'), append=True)
    await played.change(kind, which, Verb(update=update))
    attributes = dict((await played.show(kind, which)).attributes)
    assert attributes["DESCRIPTION"] == "new"
    assert attributes["DISK"] == '[ NAME = "d", APP = "a" ]'
    await played.change(kind, which, Verb(update=Update(template=parse("VERSION = 2"))))
    shown = await played.show(kind, which)
    assert dict(shown.attributes) == {"VERSION": "2"}
    if kind == "app":
        assert (shown.version, shown.description) == ("2", "")

    ready = shown.state
    await played.change(kind, which, Verb(enable=Enable(enabled=False)))
    assert (await played.show(kind, which)).state != ready
    await played.change(kind, which, Verb(enable=Enable(enabled=True)))
    assert (await played.show(kind, which)).state == ready

    if kind == "market":
        await played.change(kind, which, Verb(monitor=Monitor()))
        assert (await played.show(kind, which)).total_mb > 0
        return
    await played.change(kind, which, Verb(lock=SetLock(level=LOCK_LEVEL_MANAGE)))
    shown = await played.show(kind, which)
    assert (shown.lock, shown.lock_owner_id, shown.lock_owner) == (LOCK_LEVEL_MANAGE, 0, "oneadmin")
    assert shown.locked.ToSeconds() > 0
    for barred in (Verb(rename=Rename(name="x")), Verb(delete=change_pb2.Delete())):
        with pytest.raises(aio.AioRpcError) as refused:
            await played.change(kind, which, barred)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await played.change(kind, which, Verb(lock=SetLock(level=LOCK_LEVEL_NONE)))
    shown = await played.show(kind, which)
    assert (shown.lock, shown.lock_owner_id, shown.HasField("locked")) == (LOCK_LEVEL_NONE, -1, False)
    await played.change(kind, which, Verb(rename=Rename(name="x")))


async def test_the_same_request_makes_one_change(played: Played) -> None:
    for _ in range(2):
        await played.change("market", 100, Verb(monitor=Monitor()), "request-00000001")
        await played.change("market", 100, Verb(rename=Rename(name="b")), "request-00000002")
    assert (await played.show("market", 100)).name == "b"


async def test_a_request_that_took_the_name_away_can_be_asked_again_by_that_name(played: Played) -> None:
    for verb in (Verb(rename=Rename(name="renamed")), Verb(delete=Delete())):
        request, name = f"request-to-{verb.WhichOneof('verb')}", "i" if verb.HasField("rename") else "renamed"
        answers = [await played.change("image", name, verb, request) for _ in range(2)]
        assert [answer.id for answer in answers] == [0, 0]
    with pytest.raises(grpc.RpcError, match="no image named 'i'"):
        await played.change("image", "i", Verb(delete=Delete()), "another-request-00")


@pytest.fixture
def fedmarket(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Coroutine[Any, Any, tuple[int, str, str]]]:
    """Run a command against the agent: its status, its output and its complaints."""
    credentials = tmp_path / "credentials"
    credentials.write_text("oneadmin:secret\n")
    monkeypatch.setenv("FEDMARKET_ENDPOINT", f"127.0.0.1:{played.port}")
    monkeypatch.setenv("FEDMARKET_CREDENTIALS", str(credentials))

    async def command(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = await asyncio.to_thread(run, [str(arg) for arg in args])
        return status, *capsys.readouterr()

    return command


@pytest.mark.parametrize("kind", KINDS)
async def test_every_verb_on_the_command_line(
    played: Played, fedmarket: Callable[..., Coroutine[Any, Any, tuple[int, str, str]]], tmp_path: Path, kind: str
) -> None:
    which, name = IDS[kind], NAMES[kind]
    file = tmp_path / "template"
    file.write_text('# as edited\nDESCRIPTION = "from a file"\n')
    script: list[tuple[list[object], str]] = [
        (["rename", name, "web"], f"renamed {kind} {which} to web"),
        (["chmod", "web", "644"], f"changed the permissions of {kind} {which} by 644"),
        (["chmod", "web", "o-u,g+m"], f"changed the permissions of {kind} {which} by o-u,g+m"),
        (["chown", "web", "serveradmin", "users"], f"gave {kind} {which} to serveradmin and group users"),
        (["chgrp", which, "0"], f"gave {kind} {which} to group 0"),
        (["update", "web", file], f"updated {kind} {which}"),
        (["update", "web", "--set", "TAGS=a, b"], f"updated {kind} {which}"),
        (["disable", "web"], f"disabled {kind} {which}"),
        (["enable", "web"], f"enabled {kind} {which}"),
    ]
    if kind == "market":
        script.append((["monitor", "web"], f"measured market {which}"))
    else:
        script += [
            (["lock", "web", "--manage"], f"locked {kind} {which}"),
            (["unlock", "web"], f"unlocked {kind} {which}"),
        ]
    for args, sentence in script:
        assert await fedmarket(kind, *args) == (0, f"{sentence}\n", ""), args
    status, out, _ = await fedmarket(kind, "show", "web", "--json")
    shown = json.loads(out)
    assert status == 0
    assert shown["permissions"] == "um-um----"
    assert (shown["owner"], shown["group"]) == ("serveradmin", "oneadmin")
    assert shown["attributes"] == {"DESCRIPTION": "from a file", "TAGS": "a, b"}


# -- a disabled market


async def enable_market(zone: AgentZone, changes: ChangeService, enabled: bool) -> None:
    await changes.change(zone.admin, "market", "m", Verb(enable=Enable(enabled=enabled)))


async def test_a_disabled_market_hides_nothing_forgets_nothing_and_gives_nothing(played: Played) -> None:
    zone = played.zone
    changes = changes_of(zone, NoNetwork())
    stored = zone.apps.show("a").message.SerializeToString()
    await enable_market(zone, changes, False)

    assert (await played.show("app", 100)).state == APP_STATE_DISABLED
    assert await played.app_states() == [APP_STATE_DISABLED]
    assert zone.apps.show("a").message.SerializeToString() == stored
    assert (await played.show("market", 100)).app_count == 1
    async with aiohttp.ClientSession() as session:
        exports = zone.exports(session, lambda: "http://127.0.0.1:1")
        with pytest.raises(Refused, match="'m' is disabled"):
            await exports.export(zone.admin, "a", "default", "e", "")
        with pytest.raises(Refused, match="'m' is disabled"):
            await exports.download("a", 0)
    locator = zone._locator(lambda: "http://127.0.0.1:1")
    with pytest.raises(Refused, match="'m' is disabled"):
        locator.for_peer(100)
    blobs = zone.blobs()
    with pytest.raises(Refused, match="'m' is disabled: enable it first"):
        await zone.apps.create(zone.admin, "b", "i", "m")
    assert (zone.blobs(), [found.message.name for found in zone.apps.list(-1, 10)]) == (blobs, ["a"])

    await enable_market(zone, changes, True)
    assert (await played.show("app", 100)).state == APP_STATE_READY
    assert locator.for_peer(100).sources
    await zone.apps.create(zone.admin, "b", "i", "m")


async def test_a_market_that_is_disabled_meanwhile_takes_no_app(tmp_path: Path) -> None:
    async with AgentZone(tmp_path) as zone:
        market = await zone.market()
        image = await zone.image()
        await enable_market(zone, changes_of(zone, NoNetwork()), False)
        with pytest.raises(Refused, match="'m' is disabled"):  # `market` is as it was seen before
            await zone.apps._lock(zone.admin, "a", image, market, "", "")


async def test_what_an_upload_or_a_failure_says_is_seen_in_a_disabled_market_too(tmp_path: Path) -> None:
    async with AgentZone(tmp_path) as zone:
        market = await zone.market()
        await enable_market(zone, changes_of(zone, NoNetwork()), False)
        app = AppRecord(name="a", market_id=market.id, state=APP_STATE_LOCKED)
        app_id = await zone.catalogs.change(lambda draft: draft.create(app), private=False)
        assert Projector(zone.view).app(zone.apps.show(app_id)).state == APP_STATE_LOCKED


async def test_an_app_of_another_zone_is_shown_as_its_own_market_is_and_not_as_ours(tmp_path: Path) -> None:
    async with Zone(7) as home:
        theirs = await home.create("theirs")
        await home.writer.commit(
            lambda draft: draft.create(AppRecord(name="honest", market_id=theirs, state=APP_STATE_READY))
        )
        async with AgentZone(tmp_path, 9, replicas={7: home.own}) as here:
            ours = await here.market()
            await home.writer.commit(
                lambda draft: draft.create(AppRecord(name="liar", market_id=ours.id, state=APP_STATE_READY))
            )
            await enable_market(here, changes_of(here, NoNetwork()), False)
            projector = Projector(here.view)
            states = {app.message.name: projector.app(app).state for app in here.apps.list(-1, 10)}
            assert states == {"honest": APP_STATE_READY, "liar": APP_STATE_READY}

            def disable(draft: Any) -> None:
                record = draft.get(MarketRecord, theirs)
                record.message.state = 1
                draft.put(theirs, record)

            await home.writer.commit(disable)
            assert projector.app(here.apps.show("honest")).state == APP_STATE_DISABLED
            with pytest.raises(Refused, match="'theirs' is disabled"):
                require_ready(here.view, here.apps.show("honest"))


async def test_a_lock_against_use_keeps_an_app_from_being_read_and_an_image_from_being_uploaded(
    played: Played,
) -> None:
    for kind in ("app", "image"):
        await played.change(kind, IDS[kind], Verb(lock=SetLock(level=LOCK_LEVEL_USE)))
    with pytest.raises(Refused, match="bars use"):
        require_ready(played.zone.view, played.zone.apps.show("a"))
    with pytest.raises(Refused, match="bars use"):
        await played.zone.apps.create(played.zone.admin, "b", "i", "m")


# -- names of other catalogs


async def test_a_name_that_is_taken_in_another_catalog_is_refused(tmp_path: Path) -> None:
    async with Zone(7) as home:
        await home.create("theirs")
        async with AgentZone(tmp_path, 9, replicas={7: home.own}) as here:
            await here.market()
            await here.markets.create(here.admin, "hidden", "http", SCOPE_ZONE, {})
            changes = changes_of(here, NoNetwork())
            for name in ("theirs", "hidden"):
                with pytest.raises(AlreadyExists, match=f"'{name}' is taken by market"):
                    await changes.change(here.admin, "market", "m", Verb(rename=Rename(name=name)))
            await changes.change(here.admin, "market", "m", Verb(rename=Rename(name="m")))


async def test_an_owner_whose_other_app_of_that_name_is_in_another_catalog_is_refused(tmp_path: Path) -> None:
    async with AgentZone(tmp_path) as zone:
        app = AppRecord(name="a", market_id=100, state=APP_STATE_READY)
        app.owner.uid = 1
        await zone.catalogs.change(lambda draft: draft.create(app), private=False)
        app.owner.uid = 0
        other = await zone.catalogs.change(lambda draft: draft.create(app), private=True)
        changes = changes_of(zone, NoNetwork())
        with pytest.raises(AlreadyExists, match="'a' is taken by app 100"):
            await changes.change(zone.admin, "app", other, Verb(chown=Chown(uid=1)))
        await changes.change(zone.admin, "app", other, Verb(chown=Chown(gid=1)))
