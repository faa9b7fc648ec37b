"""An event loop whose clock jumps: when nothing is ready, the time of the next timer has come.

Deadlines and pauses cost nothing, and what runs in which order depends on the test alone. For code without sockets,
files or threads.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from itertools import count
from selectors import SelectorKey
from typing import Any


class NumberedTask(asyncio.Task[Any]):
    """A task whose place in a set does not depend on where it lies in memory: groups cancel theirs in one order."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **settings: Any) -> None:
        self._number = number
        super().__init__(coro, **settings)

    def __hash__(self) -> int:
        return self._number

    __eq__ = object.__eq__


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop for code that only waits for itself and for time. Raises RuntimeError where it would wait for ever."""

    def __init__(self) -> None:
        self._elapsed = 0.0
        super().__init__(_JumpingSelector(self))
        numbers = count()
        self.set_task_factory(lambda loop, coro, **settings: NumberedTask(next(numbers), coro, loop=loop, **settings))

    def time(self) -> float:
        """Return the seconds that have passed on this loop's clock."""
        return self._elapsed

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self._elapsed += seconds


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every task waits for another one: nothing will ever happen again")
        self._loop.jump(timeout)
        return []
