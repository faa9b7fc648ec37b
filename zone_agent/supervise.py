"""Keeping the parts of an agent running: one that fails is started again, alone, with backoff."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from fedmarket.errors import FedmarketError
from fedmarket.retry import Backoff

log = logging.getLogger(__name__)

SETTLED_SECONDS = 60.0
"""A part that ran for so long before it failed is not counted as failing in a row."""

Part = Callable[[], Awaitable[None]]


@asynccontextmanager
async def running(parts: Mapping[str, Part], backoff: Backoff) -> AsyncGenerator[None, None]:
    """Run parts beside the body; when the body ends they are cancelled, and waited for."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(supervise(name, part, backoff), name=name) for name, part in parts.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def supervise(name: str, part: Part, backoff: Backoff) -> None:
    """Run a part for ever."""
    failures = 0
    while True:
        started = time.monotonic()
        try:
            await part()
            log.warning("%s ended: starting it again", name)
        except FedmarketError as error:
            log.warning("%s failed: %s", name, error.message)
        except Exception:  # the supervisor: whatever happened, the other parts go on and this one is tried again
            log.exception("%s failed", name)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError  # its end failed in turn, and hid that it was to end
        failures = 1 if time.monotonic() - started > SETTLED_SECONDS else failures + 1
        await asyncio.sleep(backoff.delay(failures))


def only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error that a group of tasks failed with, or the group if there are several."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
