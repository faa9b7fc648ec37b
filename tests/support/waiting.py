"""Waiting for what happens elsewhere, with a bound."""

import asyncio
from collections.abc import Callable

BOUND_SECONDS = 30.0


async def eventually(condition: Callable[[], bool]) -> None:
    """Return once `condition()` holds; TimeoutError if it does not within the bound."""
    async with asyncio.timeout(BOUND_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)
