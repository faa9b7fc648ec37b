"""The round of upkeep, and the alarms that come of it."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from federation.memory import MemoryStore, Moment
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import Refused
from tests.support.agent import AgentZone, touches
from tests.support.waiting import eventually
from zone_agent.upkeep.alarms import REPEAT_SECONDS, Alarms
from zone_agent.upkeep.duty import Task, Upkeep


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncGenerator[AgentZone, None]:
    async with AgentZone(tmp_path) as made:
        yield made


class Done:
    """Tasks that note that they were done."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def task(self, name: str, error: Exception | None = None, *, of_zone: bool = True) -> Task:
        async def run() -> None:
            self.names.append(name)
            if error is not None:
                raise error

        return Task(name, run, of_zone)


async def test_a_task_that_fails_keeps_no_other_from_being_done(zone: AgentZone) -> None:
    done = Done()
    tasks = [done.task("a", Refused("no")), done.task("b", ValueError("a bug")), done.task("c")]
    await Upkeep(tasks, zone.duties, 3600).round()
    assert done.names == ["a", "b", "c"]


async def test_one_agent_of_the_zone_does_what_is_the_zones_and_each_its_own(tmp_path: Path) -> None:
    store = MemoryStore()
    async with AgentZone(tmp_path, store=store, agent="a") as a, AgentZone(tmp_path, store=store, agent="b") as b:
        done = Done()
        for name, agent in (("a", a), ("b", b), ("a", a)):
            tasks = [done.task(f"{name} zone"), done.task(f"{name} own", of_zone=False)]
            await Upkeep(tasks, agent.duties, 3600).round()
    assert done.names == ["a own", "a zone", "b own", "a own", "a zone"]


async def test_without_etcd_an_agent_still_looks_after_its_own(zone: AgentZone) -> None:
    def away(txn: Txn, moment: Moment) -> None:
        if touches(txn, "duty/upkeep"):
            raise StoreUnavailable("away")

    zone.store.fault = away
    done = Done()
    await Upkeep([done.task("zone"), done.task("own", of_zone=False)], zone.duties, 3600).round()
    assert done.names == ["own"]


async def test_rounds_go_on(zone: AgentZone) -> None:
    done = Done()
    running = asyncio.create_task(Upkeep([done.task("a", Refused("no"))], zone.duties, 0.01).run())
    await eventually(lambda: len(done.names) > 2)
    running.cancel()


def test_an_alarm_is_said_once_a_day_while_it_holds(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    alarms = Alarms(lambda: now)
    caplog.set_level(logging.INFO)
    for now in (0.0, 1.0, REPEAT_SECONDS - 1):
        alarms.report("disk", {"full": f"the disk is full, at {now}"})
    assert [record.message for record in caplog.records] == ["the disk is full, at 0.0"]
    assert alarms.current() == [f"the disk is full, at {now}"]
    now = REPEAT_SECONDS
    alarms.report("disk", {"full": "the disk is full"})
    assert len(caplog.records) == 2
    alarms.report("other", {"x": "something else"})
    alarms.report("disk", {})
    assert alarms.current() == ["something else"]
    assert caplog.records[-1].message == "no longer: the disk is full"
    alarms.report("disk", {"full": "the disk is full"})
    assert caplog.records[-1].levelname == "ERROR"
