"""What a later version wrote, as the services of this one meet it: shown, kept, and changed only where allowed."""

import json
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedmarket.errors import FedmarketError, Refused
from fedmarket.jsonview import view
from fedmarket.pb.fedmarket.v1.change_pb2 import Change, Chmod, Chown, Rename, SetLock, Update, Verb
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_LOCKED,
    APP_STATE_READY,
    IMAGE_STATE_DELETE,
    LOCK_LEVEL_USE,
    AppRecord,
    DatastoreRecord,
    ImageRecord,
    MarketRecord,
    ZoneRecord,
)
from tests.support.agent import AgentZone
from tests.support.newer import (
    NEW_SCHEMA,
    NEW_STATE,
    later,
    later_app,
    later_market,
    later_quota,
    later_record,
    read,
    write_as_later,
)
from zone_agent.cli.output import Output
from zone_agent.config import DatastoreSettings
from zone_agent.faces.native.project import Projector
from zone_agent.services import verbs
from zone_agent.services.images import require_readable
from zone_agent.services.locate import require_ready
from zone_agent.services.markets import delete_market
from zone_agent.services.zones import ZoneService
from zone_agent.stores import template_of

UPGRADE = "upgrade the agent"


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncGenerator[AgentZone, None]:
    async with AgentZone(tmp_path) as made:
        yield made


def written(zone: AgentZone, app_id: int) -> Path:
    """Put bytes where the app's object is."""
    found = zone.view.get(AppRecord, app_id)
    assert found is not None
    path = zone.layout.markets / str(found.message.market_id) / found.message.object
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


# -- shown


async def test_values_that_this_version_does_not_know_are_shown_as_such(
    zone: AgentZone, capsys: pytest.CaptureFixture[str]
) -> None:
    app = later_app("a", 200, type=NEW_STATE, lock={"level": 9, "origin": "of a lock"})
    await write_as_later(zone, {"market/200": later_market(), "app/200": app, "quota/100": later_quota()})
    projector = Projector(zone.view)
    shown = projector.app(zone.apps.show("a"))
    assert (view(shown)["state"], view(shown)["type"]) == (f"unknown-{NEW_STATE}", f"unknown-{NEW_STATE}")
    market = projector.market(zone.markets.show("m"))
    assert (view(market)["state"], view(market)["app_count"]) == (f"unknown-{NEW_STATE}", 1)
    assert view(market)["attributes"] == {"A": "1"}, "an attribute that is neither text nor vector is left out"
    for message in (shown, market):
        Output(as_json=True).show(message)
        assert json.loads(capsys.readouterr().out)["state"] == f"unknown-{NEW_STATE}"
        Output(as_json=False).show(message)
        assert f"unknown-{NEW_STATE}" in capsys.readouterr().out


async def test_an_app_or_image_in_a_state_that_is_not_known_is_not_ready(zone: AgentZone) -> None:
    await write_as_later(zone, {"market/200": later_market(), "app/200": later_app("a", 200)})
    with pytest.raises(Refused, match=f"app 'a' is UNKNOWN-{NEW_STATE}, not READY"):
        require_ready(zone.view, zone.apps.show("a"))
    with pytest.raises(Refused, match=f"image 'i' is UNKNOWN-{NEW_STATE}"):
        require_readable(1, ImageRecord(name="i", state=NEW_STATE))  # type: ignore[arg-type]  # as it is parsed


# -- changed


async def test_a_market_and_an_app_that_only_a_later_version_may_change_are_not_deleted(zone: AgentZone) -> None:
    records = {
        "market/200": later_market(min_reader=NEW_SCHEMA),
        "app/200": later_app("a", 201, min_reader=NEW_SCHEMA, object="blob"),
        "market/201": later_market("other"),
    }
    await write_as_later(zone, records)
    blob, before = written(zone, 200), zone.own.pair
    with pytest.raises(Refused, match=UPGRADE):
        await zone.apps.delete(zone.admin, "a")
    with pytest.raises(Refused, match=UPGRADE):
        await zone.catalogs.change(lambda draft: delete_market(draft, 200), private=False)
    assert (zone.own.pair, blob.exists()) == (before, True)
    assert dict(zone.own.tree.items()) == records


VERBS = {
    "rename": Verb(rename=Rename(name="b")),
    "chmod": Verb(chmod=Chmod(set=0o640)),
    "chown": Verb(chown=Chown(uid=1, gid=1)),
    "append": Verb(update=Update(template=template_of({"NEW": "1"}), append=True)),
    "replace": Verb(update=Update(template=template_of({"NEW": "1"}))),
    "lock": Verb(lock=SetLock(level=LOCK_LEVEL_USE)),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_what_a_later_version_wrote_survives_each_verb(zone: AgentZone, verb: str) -> None:
    app = later("AppRecord")(
        name="a", market_id=200, state=APP_STATE_READY, licence="MIT", quota={"name": "q"}, mode=0o600
    )
    app.owner.origin, app.template.origin = "of an owner", "of a template"
    app.template.attributes.add(name="B", origin="neither a text nor a vector")
    await write_as_later(zone, {"market/200": later_market(), "app/200": later_record(app)})
    change = Change(kind="app", id=200, verb=VERBS[verb])
    await zone.catalogs.change(lambda draft: verbs.apply(draft, change, zone.admin, 7), private=False)
    envelope, changed = read("AppRecord", zone.own.tree.get("app/200") or b"")
    assert changed != app
    assert (envelope.origin, changed.licence, changed.quota) == ("later", "MIT", app.quota)
    assert (changed.owner.origin, changed.template.origin) == ("of an owner", "of a template")
    kept = {attribute.name: attribute.origin for attribute in changed.template.attributes}
    assert kept.get("B") == (None if verb == "replace" else "neither a text nor a vector")
    assert ("NEW" in kept) == (verb in {"append", "replace"})


@pytest.mark.parametrize("verb", VERBS)
async def test_no_verb_changes_what_only_a_later_version_may_change(zone: AgentZone, verb: str) -> None:
    app = later_app("a", 200, min_reader=NEW_SCHEMA, state=APP_STATE_READY)
    await write_as_later(zone, {"market/200": later_market(), "app/200": app})
    change = Change(kind="app", id=200, verb=VERBS[verb])
    with pytest.raises(Refused, match=UPGRADE):
        await zone.catalogs.change(lambda draft: verbs.apply(draft, change, zone.admin, 7), private=False)
    assert zone.own.tree.get("app/200") == app


async def test_a_lock_that_this_version_does_not_know_bars_everything_and_can_be_lifted(zone: AgentZone) -> None:
    app = later_app("a", 200, state=APP_STATE_READY, lock={"level": 9, "owner": {"uid": 0}})
    await write_as_later(zone, {"market/200": later_market(), "app/200": app})
    for verb in ("rename", "chmod", "replace"):
        change = Change(kind="app", id=200, verb=VERBS[verb])
        with pytest.raises(Refused, match="locked"):
            await zone.catalogs.change(partial(verbs.apply, change=change, principal=zone.admin, now=7), private=False)
    unlock = Change(kind="app", id=200, verb=Verb(lock=SetLock()))
    await zone.catalogs.change(lambda draft: verbs.apply(draft, unlock, zone.admin, 7), private=False)
    assert not zone.apps.show("a").message.HasField("lock")


async def test_an_app_of_a_later_version_is_deleted_where_that_is_allowed(zone: AgentZone) -> None:
    await write_as_later(zone, {"market/200": later_market(), "app/200": later_app("a", 200, object="blob")})
    blob = written(zone, 200)
    await zone.apps.delete(zone.admin, "a")
    await zone.catalogs.change(lambda draft: delete_market(draft, 200), private=False)
    assert not blob.exists()
    assert zone.own.tree.count == 0


async def test_what_a_crash_left_of_a_later_version_is_left_to_it(zone: AgentZone) -> None:
    records = {
        "market/200": later_market(),
        "app/200": later_app("a", 200, min_reader=NEW_SCHEMA, state=APP_STATE_LOCKED, object="blob"),
        "app/201": later_app("b", 200, state=APP_STATE_LOCKED, object="other"),
    }
    await write_as_later(zone, records)
    image = later("ImageRecord")(name="i", state=IMAGE_STATE_DELETE, licence="MIT")
    await write_as_later(zone, {"image/7": later_record(image, min_reader=NEW_SCHEMA)}, private=True)
    kept, cleared = written(zone, 200), written(zone, 201)
    await zone.recovery.look(alone=True)
    assert (kept.exists(), cleared.exists()) == (True, False)
    assert zone.own.tree.get("app/200") == records["app/200"]
    _, message = read("AppRecord", zone.own.tree.get("app/201") or b"")
    assert (message.licence, message.state != APP_STATE_LOCKED) == ("MIT", True)
    assert zone.view.get(ImageRecord, 7) is not None


# -- what every start writes


async def test_what_a_later_version_said_of_the_zone_survives_the_start_of_this_one(zone: AgentZone) -> None:
    said = later("ZoneRecord")(
        name="berlin", version="9.0", state=NEW_STATE, licence="GPL", template={"attributes": [{"name": "A"}]}
    )
    await write_as_later(zone, {"zone/0": later_record(said)})
    zones = ZoneService(zone.catalogs, "key", {}, {}, {})
    await zones.publish(ZoneRecord(name="berlin", version="1.0", grpc_endpoint="here:7634"))
    said.version, said.grpc_endpoint = "1.0", "here:7634"
    _, message = read("ZoneRecord", zone.own.tree.get("zone/0") or b"")
    assert message == said
    before = zone.own.pair
    await zones.publish(ZoneRecord(name="berlin", version="1.0", grpc_endpoint="here:7634"))
    assert zone.own.pair == before, "what is said already is not written again"


async def test_datastores_of_a_later_version_are_brought_in_step_as_far_as_that_is_allowed(
    zone: AgentZone, tmp_path: Path
) -> None:
    def later_datastore(name: str, min_reader: int) -> bytes:
        message: Any = later("DatastoreRecord")(name=name, driver="fs", licence="MIT", template={"origin": "later"})
        return later_record(message, min_reader=min_reader)

    records = {"datastore/7": later_datastore("open", 1), "datastore/8": later_datastore("closed", NEW_SCHEMA)}
    await write_as_later(zone, records, private=True, datastore=9)
    await zone.datastores.reconcile(
        [DatastoreSettings(name=name, path=tmp_path / name) for name in ("closed", "new", "open")], zone.admin
    )
    names = {found.message.name for found in zone.view.page(DatastoreRecord, -1, 100)}
    assert names == {"default", "open", "closed", "new"}
    assert zone.private.tree.get("datastore/8") == records["datastore/8"]
    _, message = read("DatastoreRecord", zone.private.tree.get("datastore/7") or b"")
    assert (message.licence, message.template.origin) == ("MIT", "later")
    assert message.template.attributes[0].value == str(tmp_path / "open")


async def test_a_market_of_a_later_version_takes_apps_of_this_one(zone: AgentZone) -> None:
    await write_as_later(zone, {"market/200": later_market()}, market=201)
    await zone.image("i")
    app, job = await zone.apps.create(zone.admin, "a", "i", "m")
    await zone.jobs.ended(job)
    assert zone.apps.show(app.id).message.market_id == 200
    assert zone.view.get(MarketRecord, 200) is not None
    with pytest.raises(FedmarketError, match="taken"):
        await zone.market("m")
