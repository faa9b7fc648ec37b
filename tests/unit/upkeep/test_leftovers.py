"""Directories of markets that are gone are cleared, but never of blobs."""

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.agent import AgentZone
from zone_agent.upkeep.alarms import Alarms
from zone_agent.upkeep.leftovers import IDLE_SECONDS, Leftovers

NOW = 1_800_000_000.0


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncGenerator[AgentZone, None]:
    async with AgentZone(tmp_path) as made:
        await made.market("m")
        yield made


def directory(zone: AgentZone, name: str, *files: str, age: float = IDLE_SECONDS) -> Path:
    """Make a directory below markets/, all of it so old."""
    made = zone.layout.markets / name
    (made / ".staging").mkdir(parents=True, exist_ok=True)
    for file in files:
        (made / file).write_bytes(b"1")
    for path in (made, *made.rglob("*")):
        os.utime(path, (NOW - age, NOW - age))
    return made


async def clear(zone: AgentZone) -> list[str]:
    alarms = Alarms()
    await Leftovers(zone.layout.markets, zone.view, alarms, lambda: NOW).clear()
    return list(alarms.current())


async def test_what_jobs_left_goes_with_the_directory_of_a_market_that_is_gone(zone: AgentZone) -> None:
    gone = directory(zone, "999", ".staging/blob.fence")
    kept = [directory(zone, str(zone.markets.show("m").id), ".staging/blob.fence"), directory(zone, "lost+found")]

    assert await clear(zone) == []

    assert not gone.exists()
    assert all(each.exists() for each in kept)


async def test_blobs_of_no_market_are_an_alarm_and_stay(zone: AgentZone) -> None:
    gone = directory(zone, "999", "blob", ".staging/blob.fence")

    (alarm,) = await clear(zone)

    assert str(gone) in alarm
    assert [file.name for file in gone.rglob("*") if file.is_file()] == ["blob"]


async def test_what_was_written_just_now_is_left_alone(zone: AgentZone) -> None:
    fresh = directory(zone, "999", ".staging/blob.fence", age=IDLE_SECONDS - 1)
    assert await clear(zone) == []
    assert (fresh / ".staging" / "blob.fence").exists()


async def test_nothing_is_cleared_where_the_catalog_is_at_fault(zone: AgentZone) -> None:
    gone = directory(zone, "999", ".staging/blob.fence")
    zone.private.fault = "it is damaged"
    assert await clear(zone) == []
    assert gone.exists()


async def test_a_zone_without_such_directories_has_nothing_to_clear(zone: AgentZone) -> None:
    assert await clear(zone) == []
