"""What agents that died left behind is cleared, and what lives is left alone."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from federation.draft import Draft
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_KIND_IMPORT
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_ERROR,
    APP_STATE_LOCKED,
    IMAGE_STATE_ERROR,
    IMAGE_STATE_LOCKED,
    IMAGE_STATE_READY,
    IMAGE_STATE_USED,
    AppRecord,
    ImageRecord,
)
from tests.support.agent import AgentZone, name_of_blob
from zone_agent.jobs import job_for, thing
from zone_agent.services.images import NewImage


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncGenerator[AgentZone, None]:
    async with AgentZone(tmp_path) as made:
        await made.market("m")
        await made.image("i")
        yield made


async def left_locked(zone: AgentZone, market: int) -> int:
    """Make what an agent leaves that dies in the middle of an upload."""

    def change(draft: Draft) -> int:
        return draft.create(
            AppRecord(name="a", market_id=market, origin_id=0, state=APP_STATE_LOCKED, object=name_of_blob())
        )

    app = await zone.catalogs.change(change, private=False)
    await zone.images.hold(0, app=app)
    return app


async def test_an_upload_whose_agent_died_is_cleared(zone: AgentZone) -> None:
    app = await left_locked(zone, zone.markets.show("m").id)
    await asyncio.to_thread(
        zone.layout.markets.joinpath(str(zone.markets.show("m").id)).mkdir, parents=True, exist_ok=True
    )

    await zone.recovery.look(alone=True)

    assert zone.apps.show(app).message.state == APP_STATE_ERROR
    assert zone.images.show(0).message.state == IMAGE_STATE_READY


async def test_one_look_is_not_enough_where_other_agents_may_be_at_work(zone: AgentZone) -> None:
    app = await left_locked(zone, zone.markets.show("m").id)
    await asyncio.to_thread(
        zone.layout.markets.joinpath(str(zone.markets.show("m").id)).mkdir, parents=True, exist_ok=True
    )

    await zone.recovery.look(alone=False)
    after_one = (zone.apps.show(app).message.state, zone.images.show(0).message.state)
    await zone.recovery.look(alone=False)

    assert after_one == (APP_STATE_LOCKED, IMAGE_STATE_USED)
    assert zone.apps.show(app).message.state == APP_STATE_ERROR


async def test_a_job_that_runs_keeps_its_record_and_all_its_staging(zone: AgentZone) -> None:
    image = await zone.images.lock(zone.admin, NewImage("new", "default", 10), zone.datastores.show("default"))
    record = job_for(JOB_KIND_IMPORT, thing(zone.images.show(image)), zone.admin)
    job = await zone.jobs.enter(record, lambda: None)
    staging = zone.layout.datastores / "default" / ".staging"
    name = zone.images.show(image).message.object
    fences = [job.staging, f"{job.staging}-qcow2"]  # the second is that of a conversion
    for fence in fences:
        await asyncio.to_thread((staging / f"{name}.{fence}").write_bytes, b"1")

    for _ in range(3):
        await zone.recovery.look(alone=False)

    assert zone.images.show(image).message.state == IMAGE_STATE_LOCKED
    assert sorted(path.name for path in zone.staged()) == sorted(f"{name}.{fence}" for fence in fences)
    await zone.jobs.leave(job, None)


async def test_a_store_that_cannot_be_cleared_does_not_keep_the_agent_from_clearing_the_rest(zone: AgentZone) -> None:
    market = zone.markets.show("m").id
    await left_locked(zone, market)
    blocked = zone.layout.markets / str(market)  # a file where the market's directory should be
    await asyncio.to_thread(blocked.parent.mkdir, parents=True, exist_ok=True)
    await asyncio.to_thread(shutil.rmtree, blocked, ignore_errors=True)
    await asyncio.to_thread(blocked.write_bytes, b"")
    image = await zone.images.lock(zone.admin, NewImage("new", "default", 10), zone.datastores.show("default"))

    await zone.recovery.look(alone=True)

    assert zone.view.resolve(ImageRecord, image).message.state == IMAGE_STATE_ERROR
