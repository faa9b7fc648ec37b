"""A pulse: something happened, look again."""

import asyncio
from contextlib import suppress


class Pulse:
    """Wakes whoever waits, each time it fires. Waiters check their condition first, then wait: none is missed."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def fire(self) -> None:
        """Wake everybody who waits now."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for the next fire."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if not waiter.done() or waiter.cancelled():  # or those who give up would pile up where nothing happens
                with suppress(ValueError):
                    self._waiters.remove(waiter)
