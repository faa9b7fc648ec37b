"""Blocking work in threads: cancellation waits for it and leaves nothing of it."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fedmarket.threads import in_thread, staged

BOUND = 5.0


class Gate:
    """Work that waits to be let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()
        self.ended = False

    def __call__(self) -> str:
        self.begun.set()
        assert self.let_go.wait(BOUND)
        self.ended = True
        return "done"


async def begun(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.begun.wait, BOUND)


async def test_the_value_comes_back() -> None:
    assert await in_thread(lambda: 7) == 7


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_cancelled_caller_ends_only_after_its_thread(times: int) -> None:
    gate, asked = Gate(), []
    caller = asyncio.create_task(in_thread(gate, lambda: asked.append(1)))
    await begun(gate)
    for _ in range(times):
        caller.cancel()
        await asyncio.wait([caller], timeout=0.01)
    still_waiting = not caller.done()
    gate.let_go.set()
    await asyncio.wait([caller], timeout=BOUND)

    assert still_waiting
    assert (caller.cancelled(), gate.ended, bool(asked)) == (True, True, True)


async def test_a_staging_that_was_being_entered_when_its_caller_was_cancelled_is_left() -> None:
    gate, open_now = Gate(), []

    @contextmanager
    def staging() -> Iterator[None]:
        open_now.append(1)
        gate()
        try:
            yield
        finally:
            open_now.pop()

    async def use() -> None:
        async with staged(staging):
            pass

    caller = asyncio.create_task(use())
    await begun(gate)
    caller.cancel()
    await asyncio.sleep(0)
    gate.let_go.set()
    await asyncio.wait([caller], timeout=BOUND)

    assert caller.cancelled()
    assert open_now == []


class OpenedEarly:
    """As a driver's staging: it holds a file from the moment that it was made."""

    def __init__(self) -> None:
        self.open = True

    def __enter__(self) -> "OpenedEarly":
        return self

    def __exit__(self, *exc: object) -> None:
        self.open = False


async def test_a_staging_that_was_being_made_when_its_caller_was_cancelled_is_left() -> None:
    gate, made = Gate(), OpenedEarly()

    def stage() -> OpenedEarly:
        gate()
        return made

    async def use() -> None:
        async with staged(stage):
            pass

    caller = asyncio.create_task(use())
    await begun(gate)
    caller.cancel()
    await asyncio.sleep(0)
    gate.let_go.set()
    await asyncio.wait([caller], timeout=BOUND)

    assert caller.cancelled()
    assert not made.open
