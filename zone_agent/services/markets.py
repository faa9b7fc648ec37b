"""Marketplaces: create, list, show, delete."""

import re
import time
from collections.abc import Mapping, Sequence

from drivers.capabilities import Writable
from drivers.registry import market_driver
from federation.draft import Draft
from federation.view import Found
from fedmarket.errors import BadInput, Refused
from fedmarket.names import check_name
from fedmarket.pb.fedmarket.v1.common_pb2 import SCOPE_FEDERATION, SCOPE_UNSPECIFIED, SCOPE_ZONE, Scope
from fedmarket.pb.fedmarket.v1.record_pb2 import AppRecord, MarketRecord
from fedmarket.threads import in_thread, uninterrupted
from zone_agent.services.catalogs import Catalogs, require, taken
from zone_agent.services.principal import DEFAULT_MODE, Principal
from zone_agent.stores import Stores, template_of

_ATTRIBUTE = re.compile(r"[A-Z][A-Z0-9_]*", re.ASCII)
_SCOPES = {"federation": SCOPE_FEDERATION, "zone": SCOPE_ZONE}


class MarketService:
    """The use cases of marketplaces."""

    def __init__(self, catalogs: Catalogs, stores: Stores) -> None:
        self._catalogs = catalogs
        self._view = catalogs.view
        self._stores = stores

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

        return self.show(await self._catalogs.change(change, private=private))

    def _check_name_is_free(self, name: str) -> None:
        for clash in self._view.named(MarketRecord, name):
            raise taken("market", name, clash.id, self._view.zone_name(clash.home))


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
