"""An event loop whose clock jumps: when nothing is ready, the time of the next timer has come.

Deadlines and pauses cost nothing, and what runs in which order depends on the test alone. For code without sockets,
files or threads.
"""

import asyncio
import selectors
from selectors import SelectorKey


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop for code that only waits for itself and for time. Raises RuntimeError where it would wait for ever."""

    def __init__(self) -> None:
        self._elapsed = 0.0
        super().__init__(_JumpingSelector(self))

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
