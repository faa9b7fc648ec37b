"""Duties: what an agent does is known to its zone for exactly as long as it does it."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from federation.memory import MemoryStore, Moment
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import Refused
from tests.support.agent import AgentZone, touches
from tests.support.waiting import eventually


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncGenerator[AgentZone, None]:
    async with AgentZone(tmp_path) as made:
        yield made


async def test_a_duty_is_one_agents_at_a_time(tmp_path: Path) -> None:
    store = MemoryStore()
    async with AgentZone(tmp_path, store=store, agent="a") as a, AgentZone(tmp_path, store=store, agent="b") as b:
        await a.duties.claim("x")
        with pytest.raises(Refused, match="another agent"):
            await b.duties.claim("x")
        await a.duties.release("x")
        await b.duties.claim("x")


async def test_a_duty_goes_with_its_agent(tmp_path: Path) -> None:
    store = MemoryStore()
    async with AgentZone(tmp_path, store=store, agent="a") as a:
        await a.duties.claim("x")
        assert await a.duties.all() == {"x"}
    assert (await store.snapshot(a.keyspace.duty(""))).items == []


async def test_a_duty_released_while_etcd_was_away_is_free_when_it_is_back(zone: AgentZone) -> None:
    def away(txn: Txn, moment: Moment) -> None:
        if touches(txn, "duty/"):
            raise StoreUnavailable("away")

    await zone.duties.claim("x")
    zone.store.fault = away
    await zone.duties.release("x")
    zone.store.fault = lambda txn, moment: None

    async with asyncio.timeout(5):
        while await zone.duties.all():
            await asyncio.sleep(0.01)


async def test_a_duty_that_was_lost_to_another_agent_is_not_taken_from_it(tmp_path: Path) -> None:
    store = MemoryStore()
    async with AgentZone(tmp_path, store=store, agent="a") as a, AgentZone(tmp_path, store=store, agent="b") as b:
        await a.duties.claim("x")
        await store.txn(Txn({}, deletes=[a.keyspace.duty("x")]))  # as the end of its lease does
        await b.duties.claim("x")

        await a.duties.release("x")

        assert await b.duties.all() == {"x"}


async def test_what_is_held_is_claimed_again_after_a_lost_lease(zone: AgentZone) -> None:
    await zone.duties.claim("x")
    for lease in list(zone.store._leases):
        zone.store.expire(lease)
    await eventually(lambda: zone.keyspace.duty("x") in zone.store._items)
