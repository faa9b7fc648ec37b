"""What is not to be cut off in the middle: blocking work in threads, and changes of several steps."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager
from contextvars import copy_context
from functools import wraps
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


async def to_the_end(work: Coroutine[Any, Any, T], cancel: Callable[[], None] | None = None) -> T:
    """Await work to its end, also when cancelled meanwhile; then it is told by `cancel`, and awaited all the same."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
        await ended(running)
        raise


def uninterrupted(use_case: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make a use case run to its end though its caller has gone: a client that hangs up halves nothing."""

    @wraps(use_case)
    async def whole(*args: P.args, **kwargs: P.kwargs) -> T:
        return await to_the_end(use_case(*args, **kwargs))

    return whole


async def in_thread(work: Callable[[], T], cancel: Callable[[], None] | None = None) -> T:
    """Run blocking work in a thread. When cancelled, tell it by `cancel`, and wait until it has ended."""
    # Not a task: the end of the event loop cancels all tasks, and a thread runs on. In the caller's context, so that
    # what is logged there, and the spans of there, are of the caller's trace.
    running = asyncio.get_running_loop().run_in_executor(None, copy_context().run, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
        await ended(running)
        raise


async def ended(running: asyncio.Future[T]) -> None:
    """Wait until something has ended, whatever its outcome and however often we are cancelled meanwhile."""
    cancelled = False
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            cancelled = True
    if not running.cancelled():
        running.exception()  # noted, so that asyncio does not report it as lost
    if cancelled:
        raise asyncio.CancelledError


@asynccontextmanager
async def staged(enter: Callable[[], AbstractContextManager[T]]) -> AsyncGenerator[T, None]:
    """Enter and leave a context that blocks, such as a staging, in threads."""
    entered: list[AbstractContextManager[T]] = []

    def begin() -> T:
        context = enter()
        value = context.__enter__()
        entered.append(context)
        return value

    try:
        yield await in_thread(begin)
    finally:
        await in_thread(lambda: [context.__exit__(None, None, None) for context in entered])
