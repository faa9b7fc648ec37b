"""Marketplaces: create, list, show, measure, delete."""

import logging
import re
import time
from collections.abc import Mapping, Sequence

from drivers.capabilities import Sized, Usage, Writable
from drivers.registry import market_driver
from federation.draft import Draft
from federation.view import Found
from fedmarket.errors import BadInput, FedmarketError, Refused
from fedmarket.names import check_name
from fedmarket.pb.fedmarket.v1.common_pb2 import SCOPE_FEDERATION, SCOPE_UNSPECIFIED, SCOPE_ZONE, Scope
from fedmarket.pb.fedmarket.v1.record_pb2 import MARKET_STATE_DISABLED, AppRecord, MarketRecord
from fedmarket.threads import in_thread, uninterrupted
from zone_agent.services.catalogs import Catalogs, require, taken
from zone_agent.services.principal import DEFAULT_MODE, Principal
from zone_agent.services.space import Gauge, differs, note_usage
from zone_agent.stores import Stores, template_of

log = logging.getLogger(__name__)

MEASURE_SECONDS = 10.0
"""How long a market's file system may take to say how full it is."""
_ATTRIBUTE = re.compile(r"[A-Z][A-Z0-9_]*", re.ASCII)
_SCOPES = {"federation": SCOPE_FEDERATION, "zone": SCOPE_ZONE}


class MarketService:
    """The use cases of marketplaces."""

    def __init__(self, catalogs: Catalogs, stores: Stores, measure_seconds: float = MEASURE_SECONDS) -> None:
        self._catalogs = catalogs
        self._view = catalogs.view
        self._stores = stores
        self._gauge = Gauge(measure_seconds)

    def list(self, after: int, limit: int) -> Sequence[Found[MarketRecord]]:
        """Return a page of all markets that this zone sees."""
        return self._view.page(MarketRecord, after, limit)

    def show(self, ref: int | str) -> Found[MarketRecord]:
        """Return one market. Raises NotFound."""
        return self._view.resolve(MarketRecord, ref)

    @uninterrupted
    async def create(
        self, principal: Principal, name: str, driver: str, scope: Scope.ValueType, attributes: Mapping[str, str]
    ) -> Found[MarketRecord]:
        """Create a market of this zone.

        Raises BadInput, AlreadyExists, Refused if its store cannot be written.
        """
        check_name(name, "market")
        known = market_driver(driver)
        private = _scope(scope, known.scope) == SCOPE_ZONE
        kept = {key: _check_attribute(key, value) for key, value in attributes.items()}
        self._check_name_is_free(name)
        store = self._stores.market_driver(0, driver, kept)
        if isinstance(store, Writable) and kept.get("PUBLIC_DIR"):
            await in_thread(store.check)
        message = MarketRecord(
            name=name,
            owner=principal.owner(),
            mode=DEFAULT_MODE,
            driver=driver,
            template=template_of(kept),
            register_time=int(time.time()),
        )

        def change(draft: Draft) -> int:
            for market_id, _ in draft.named(MarketRecord, name):
                raise taken("market", name, market_id, self._view.zone_name(self._view.zone))
            return draft.create(message)

        market_id = await self._catalogs.change(change, private=private)
        await self._measure_new(market_id)
        return self.show(market_id)

    def own(self) -> Sequence[Found[MarketRecord]]:
        """Return every market of this zone."""
        return [found for found in self._view.page(MarketRecord, -1, 1_000_000) if found.home == self._view.zone]

    def is_sized(self, market: Found[MarketRecord]) -> bool:
        """Say whether a market of this zone has space that can be measured. Raises BadInput."""
        return isinstance(self._stores.market(market), Sized)

    async def monitor(self, ref: int | str, *, least_percent: int = 0) -> None:
        """Measure a market of this zone, and note its space if a figure differs by so much of the total.

        Raises NotHome, and what `measure` raises.
        """
        market = self.show(ref)
        self._catalogs.require_home(market.home, f"market {market.message.name!r}", "measures it")
        usage = await self.measure(market)
        if differs(market.message, usage, least_percent):
            await self._catalogs.change(lambda draft: note_usage(draft, market.id, usage), private=market.private)

    async def measure(self, market: Found[MarketRecord]) -> Usage:
        """Measure the space of a market of this zone.

        Raises Refused where it has none of its own, or its directory is missing; Timeout where that hangs.
        """
        store = self._stores.market(market)
        if not isinstance(store, Sized):
            raise Refused(
                f"market {market.message.name!r} ({market.message.driver}) has no space of its own: monitor another one"
            )
        return await self._gauge.measure(market.id, market.message.name, store)

    async def _measure_new(self, market_id: int) -> None:
        """Measure a market that was just made. What keeps it from being measured does not unmake it."""
        market = self.show(market_id)
        try:
            store = self._stores.market(market)
            if isinstance(store, Writable):
                await in_thread(store.check)  # makes the directory
            await self.monitor(market_id)
        except FedmarketError as error:
            log.warning("the space of market %s is not known yet: %s", market.message.name, error.message)

    def _check_name_is_free(self, name: str) -> None:
        for clash in self._view.named(MarketRecord, name):
            raise taken("market", name, clash.id, self._view.zone_name(clash.home))


def require_enabled(market: MarketRecord) -> None:
    """Raise Refused if a market takes no apps now."""
    if market.state == MARKET_STATE_DISABLED:
        raise Refused(f"market {market.name!r} is disabled: enable it first, or choose another one")


def delete_market(draft: Draft, market_id: int) -> None:
    """Delete an empty market. Raises Refused if it holds apps, NotFound."""
    message = require(draft, MarketRecord, market_id, "the market")
    apps = len(draft.children(AppRecord, market_id))
    if apps:
        raise Refused(f"market {message.name!r} still holds {apps} app{'s' if apps > 1 else ''}: delete them first")
    draft.delete(MarketRecord, market_id)


def _scope(wanted: Scope.ValueType, default: str) -> Scope.ValueType:
    if wanted == SCOPE_UNSPECIFIED:
        return _SCOPES[default]
    if wanted not in _SCOPES.values():
        raise BadInput(f"there is no scope {wanted}: choose federation or zone")
    return wanted


def _check_attribute(name: str, value: str) -> str:
    if not _ATTRIBUTE.fullmatch(name):
        raise BadInput(f"{name[:40]!r} is no attribute name: use capital letters, digits and underscores")
    if not value.isprintable():
        raise BadInput(f"the value of {name} holds control characters: leave them out")
    return value
