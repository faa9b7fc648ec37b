"""Blocking work in threads, of which none is left behind."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T], cancel: Callable[[], None] | None = None) -> T:
    """Run blocking work in a thread. When cancelled, tell it by `cancel`, and wait until it has ended."""
    # Not a task: the end of the event loop cancels all tasks, and a thread runs on.
    running = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
        await ended(running)
        raise


async def ended(running: asyncio.Future[T]) -> None:
    """Wait until a call in a thread has ended, whatever its outcome and however often we are cancelled meanwhile."""
    cancelled = False
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            cancelled = True
    running.exception()  # noted, so that asyncio does not report it as lost
    if cancelled:
        raise asyncio.CancelledError


@asynccontextmanager
async def staged(enter: Callable[[], AbstractContextManager[T]]) -> AsyncGenerator[T, None]:
    """Enter and leave a context that blocks, such as a staging, in threads."""
    context = await in_thread(enter)
    value = await in_thread(context.__enter__)
    try:
        yield value
    finally:
        await in_thread(lambda: context.__exit__(None, None, None))
