"""The rule in its first place, alone: the service refuses before any byte moves."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from fedmarket.errors import NotHome
from fedmarket.pb.fedmarket.v1.record_pb2 import AppRecord, ZoneRecord
from tests.support.agent import AgentZone
from tests.support.federation import Zone

AT_HOME = 7
HERE = 9


@pytest.fixture
async def foreign() -> AsyncGenerator[Zone, None]:
    """A zone with a market `theirs`, an app in it, and its own address."""
    async with Zone(AT_HOME) as home:
        await home.writer.commit(
            lambda draft: draft.add(AT_HOME, ZoneRecord(name="berlin", grpc_endpoint="berlin.example:7634"))
        )
        market = await home.create("theirs")
        await home.writer.commit(lambda draft: draft.create(AppRecord(name="old", market_id=market)))
        yield home


@pytest.fixture
async def here(foreign: Zone, tmp_path: Path) -> AsyncGenerator[AgentZone, None]:
    async with AgentZone(tmp_path, HERE, replicas={AT_HOME: foreign.own}) as zone:
        await zone.image("disk")
        zone.stores.asked.clear()
        yield zone


async def test_an_app_is_refused_in_a_market_of_another_zone_before_anything_is_read_or_written(
    here: AgentZone,
) -> None:
    before, blobs = here.store.revision, here.blobs()

    with pytest.raises(NotHome) as refusal:
        await here.apps.create(here.admin, "mine", "disk", "theirs")

    assert (here.store.revision, here.blobs(), here.stores.asked) == (before, blobs, [])
    assert refusal.value.details == {"home_zone": "7", "home_endpoint": "berlin.example:7634"}
    for part in ("'theirs'", "berlin (7)", "berlin.example:7634", "migration"):
        assert part in refusal.value.message


async def test_the_refusal_comes_before_every_other_complaint(here: AgentZone) -> None:
    with pytest.raises(NotHome):
        await here.apps.create(here.admin, "not/a/name", "no such image", "theirs")


@pytest.mark.parametrize("ref", ["old", AT_HOME * 1_000_000 + 100])
async def test_an_app_of_another_zone_is_not_deleted_here(here: AgentZone, ref: str | int) -> None:
    before = here.store.revision

    with pytest.raises(NotHome, match=r"'old'.*berlin"):
        await here.apps.delete(here.admin, ref)

    assert (here.store.revision, here.stores.asked) == (before, [])
    assert here.view.get(AppRecord, AT_HOME * 1_000_000 + 100) is not None
