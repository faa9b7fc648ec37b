"""The space of markets: measured in threads that may hang, noted where it differs."""

import asyncio

from drivers.capabilities import Sized, Usage
from federation.draft import Draft
from fedmarket.errors import Timeout
from fedmarket.pb.fedmarket.v1.record_pb2 import MarketRecord
from zone_agent.services.catalogs import edit


class Gauge:
    """Measures stores. A file system that hangs, as NFS does without its server, holds one thread and no caller."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._measuring: dict[int, asyncio.Future[Usage]] = {}

    async def measure(self, market_id: int, name: str, store: Sized) -> Usage:
        """Measure a market's store. Raises Timeout, and whatever its driver raises."""
        measuring = self._measuring.get(market_id)
        if measuring is None:
            measuring = asyncio.get_running_loop().run_in_executor(None, store.usage)
            self._measuring[market_id] = measuring
            measuring.add_done_callback(lambda done: self._ended(market_id, done))
        done, _ = await asyncio.wait([measuring], timeout=self._seconds)
        if not done:
            raise Timeout(
                f"the space of market {name!r} could not be measured within {self._seconds:g} s: see whether its file "
                "system answers"
            )
        return measuring.result()

    def _ended(self, market_id: int, done: asyncio.Future[Usage]) -> None:
        del self._measuring[market_id]
        if not done.cancelled():
            done.exception()  # noted, so that asyncio does not report it as lost where nobody waited for it


def differs(market: MarketRecord, usage: Usage, percent: int) -> bool:
    """Say whether a figure that is noted is apart from what was measured by at least so much of the total."""
    apart: int = max(abs(getattr(market, name) - value) for name, value in _figures(usage).items())
    return apart > 0 and 100 * apart >= percent * usage.total_mb


def note_usage(draft: Draft, market_id: int, usage: Usage) -> None:
    """Note a market's space. Raises NotFound."""

    def change(message: MarketRecord) -> None:
        for name, value in _figures(usage).items():
            setattr(message, name, value)

    edit(draft, MarketRecord, market_id, "the market", change)


def _figures(usage: Usage) -> dict[str, int]:
    """Return the fields of a market's record; a store over its quota has nothing free."""
    return {"total_mb": usage.total_mb, "free_mb": max(usage.free_mb, 0), "used_mb": usage.used_mb}
