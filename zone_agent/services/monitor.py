"""The duty `monitor`: one agent of the zone measures the space of its markets, again and again."""

import asyncio
import logging
import random

from fedmarket.errors import FedmarketError
from fedmarket.pb.fedmarket.v1.record_pb2 import MARKET_STATE_DISABLED
from zone_agent.duties import Duties
from zone_agent.services.markets import MarketService

log = logging.getLogger(__name__)

DUTY = "monitor"
LEAST_PERCENT = 1
"""Of a market's total. What differs by less is not worth a commit that every peer follows."""


class Monitor:
    """Keeps the figures of this zone's markets current."""

    def __init__(self, markets: MarketService, duties: Duties, interval_seconds: float) -> None:
        self._markets = markets
        self._duties = duties
        self._interval_seconds = interval_seconds

    async def run(self) -> None:
        """Measure for ever, as the one agent whose duty it is, and not in step with other zones."""
        while True:
            await asyncio.sleep(self._interval_seconds * (0.5 + random.random()))  # noqa: S311 - no secret
            if await self._duties.try_claim(DUTY):
                await self.look()

    async def look(self) -> None:
        """Measure every market that is enabled and has space of its own; one that fails keeps no other from it."""
        for market in self._markets.own():
            if market.message.state == MARKET_STATE_DISABLED or not self._markets.is_sized(market):
                continue
            try:
                await self._markets.monitor(market.id, least_percent=LEAST_PERCENT)
            except FedmarketError as error:
                log.warning("the space of market %s is not known: %s", market.message.name, error.message)
