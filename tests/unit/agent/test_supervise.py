"""The parts of an agent: each fails alone, and all end when the agent does."""

import asyncio

import pytest

from fedmarket.errors import Refused
from fedmarket.retry import Backoff
from zone_agent.supervise import running

QUICK = Backoff(first_seconds=0.0001, longest_seconds=0.001)
BOUND = 5.0


async def test_a_part_that_fails_is_started_again_and_the_others_run_on() -> None:
    starts, other = [], []
    again = asyncio.Event()

    async def fails() -> None:
        starts.append(1)
        if len(starts) == 3:
            again.set()
        raise Refused("no") if len(starts) % 2 else ZeroDivisionError

    async def lasts() -> None:
        other.append(1)
        await asyncio.Event().wait()

    async with asyncio.timeout(BOUND), running({"fails": fails, "lasts": lasts}, QUICK):
        await again.wait()

    assert len(starts) >= 3
    assert other == [1]


async def test_a_part_whose_cleaning_up_fails_ends_with_the_agent_all_the_same() -> None:
    starts = []
    begun = asyncio.Event()

    async def part() -> None:
        starts.append(1)
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            if len(starts) == 1:
                raise OSError("the disk is full")

    async def agent() -> None:
        async with running({"part": part}, QUICK):
            await begun.wait()

    async with asyncio.timeout(BOUND):
        await agent()
    assert starts == [1]


async def test_the_body_fails_with_its_own_error() -> None:
    async def lasts() -> None:
        await asyncio.Event().wait()

    with pytest.raises(BaseExceptionGroup) as group:
        async with running({"lasts": lasts}, QUICK):
            raise Refused("no")
    assert group.group_contains(Refused)
