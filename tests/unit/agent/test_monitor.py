"""The space of markets: measured after their creation, when asked, and as a duty; noted where it has changed."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from drivers.capabilities import Usage
from drivers.files import BlobDirectory
from drivers.market.http import HttpMarket
from federation.view import Found
from fedmarket.errors import NotHome, Refused, Timeout
from fedmarket.pb.fedmarket.v1.change_pb2 import Change, Enable, Verb
from fedmarket.pb.fedmarket.v1.common_pb2 import SCOPE_ZONE
from fedmarket.pb.fedmarket.v1.record_pb2 import MarketRecord
from tests.support.agent import BOUND_SECONDS, AgentZone
from tests.support.federation import Zone
from zone_agent.services import monitor, verbs
from zone_agent.services.markets import MarketService
from zone_agent.services.monitor import Monitor
from zone_agent.services.space import differs


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncGenerator[AgentZone, None]:
    async with AgentZone(tmp_path) as zone:
        yield zone


class Space:
    """What every http market says of its space."""

    def __init__(self) -> None:
        self.usage = Usage(total_mb=1000, free_mb=600, used_mb=400)
        self.bad: set[str] = set()
        """Names of directories that cannot be measured."""

    def of(self, directory: Path) -> Usage:
        if directory.name in self.bad:
            raise Refused("the directory is not there: mount it")
        return self.usage


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Space:
    space = Space()
    monkeypatch.setattr(BlobDirectory, "usage", lambda self: space.of(self.root))
    return space


def figures(zone: AgentZone, market: Found[MarketRecord]) -> tuple[int, int, int]:
    message = zone.markets.show(market.id).message
    return message.total_mb, message.free_mb, message.used_mb


def looker(zone: AgentZone) -> Monitor:
    return Monitor(zone.markets, zone.duties, 3600)


async def test_a_new_market_is_measured_at_once_also_where_its_directory_was_not_made_yet(zone: AgentZone) -> None:
    market = await zone.market()
    total, free, used = figures(zone, market)
    assert total > 0
    assert free + used <= total
    assert market.message.total_mb == total


async def test_a_market_that_cannot_be_measured_is_made_all_the_same(zone: AgentZone, space: Space) -> None:
    space.bad.add("100")
    market = await zone.market()
    assert figures(zone, market) == (0, 0, 0)
    space.bad.clear()
    await looker(zone).look()
    assert figures(zone, market) == (1000, 600, 400)


async def test_only_figures_that_changed_by_a_percent_are_written_by_the_duty(zone: AgentZone, space: Space) -> None:
    market = await zone.market()
    before = zone.own.pair
    space.usage = Usage(total_mb=1000, free_mb=591, used_mb=409)
    await looker(zone).look()
    assert (zone.own.pair, figures(zone, market)) == (before, (1000, 600, 400))
    space.usage = Usage(total_mb=1000, free_mb=590, used_mb=410)
    await looker(zone).look()
    assert figures(zone, market) == (1000, 590, 410)


async def test_who_asks_gets_every_change_written_and_nothing_where_there_is_none(
    zone: AgentZone, space: Space
) -> None:
    market = await zone.market()
    before = zone.own.pair
    await zone.markets.monitor(market.id)
    assert zone.own.pair == before
    space.usage = Usage(total_mb=1000, free_mb=-5, used_mb=401)
    await zone.markets.monitor("m")
    assert figures(zone, market) == (1000, 0, 401)


async def test_a_market_that_fails_or_is_disabled_keeps_no_other_from_being_measured(
    zone: AgentZone, space: Space
) -> None:
    bad, off = await zone.market("bad"), await zone.market("off")
    private = await zone.markets.create(zone.admin, "good", "http", SCOPE_ZONE, {})
    disable = Change(kind="market", id=off.id, verb=Verb(enable=Enable(enabled=False)))
    await zone.catalogs.change(lambda draft: verbs.apply(draft, disable, zone.admin, 0), private=False)
    space.usage, space.bad = Usage(2000, 1000, 1000), {str(bad.id)}
    await looker(zone).look()
    assert [figures(zone, market)[0] for market in (bad, off, private)] == [1000, 1000, 2000]


async def test_a_file_system_that_hangs_holds_nobody_and_one_thread(
    zone: AgentZone, monkeypatch: pytest.MonkeyPatch
) -> None:
    market, answer, calls = await zone.market(), threading.Event(), []

    def hang(self: HttpMarket) -> Usage:
        calls.append(self.root)
        answer.wait(BOUND_SECONDS)
        return Usage(3000, 2000, 1000)

    monkeypatch.setattr(BlobDirectory, "usage", hang)
    markets = MarketService(zone.catalogs, zone.stores, measure_seconds=0.01)
    for _ in range(3):
        with pytest.raises(Timeout, match="'m' could not be measured within"):
            await markets.monitor(market.id)
    assert len(calls) == 1
    answer.set()
    patient = MarketService(zone.catalogs, zone.stores, measure_seconds=BOUND_SECONDS)
    await patient.monitor(market.id)
    assert figures(zone, market) == (3000, 2000, 1000)


async def test_the_duty_is_done_by_one_agent_of_the_zone(
    zone: AgentZone, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Monitor] = []
    done = asyncio.Event()

    async def look(self: Monitor) -> None:
        looked.append(self)
        if len(looked) == 3:
            done.set()

    monkeypatch.setattr(monitor.Monitor, "look", look)
    async with AgentZone(tmp_path / "other", store=zone.store, agent="other") as other:
        first, second = (Monitor(each.markets, each.duties, 0.001) for each in (zone, other))
        assert await zone.duties.try_claim(monitor.DUTY)
        async with asyncio.timeout(BOUND_SECONDS), asyncio.TaskGroup() as group:
            tasks = [group.create_task(each.run()) for each in (first, second)]
            await done.wait()
            for task in tasks:
                task.cancel()
    assert set(looked) == {first}


async def test_a_market_of_another_zone_is_measured_there(tmp_path: Path) -> None:
    async with Zone(7) as home:
        market = await home.create("theirs")
        async with AgentZone(tmp_path, 9, replicas={7: home.own}) as here:
            assert here.markets.own() == []
            with pytest.raises(NotHome, match="zone 7"):
                await here.markets.monitor(market)


@pytest.mark.parametrize(
    ("usage", "percent", "apart"),
    [
        (Usage(1000, 600, 400), 0, False),
        (Usage(1000, 599, 400), 0, True),
        (Usage(1000, 599, 400), 1, False),
        (Usage(1000, 590, 400), 1, True),
        (Usage(2000, 600, 400), 1, True),
        (Usage(0, 0, 0), 1, True),
    ],
)
def test_figures_are_compared_with_the_total(usage: Usage, percent: int, apart: bool) -> None:
    noted = MarketRecord(total_mb=1000, free_mb=600, used_mb=400)
    assert differs(noted, usage, percent) is apart
