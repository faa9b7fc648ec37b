"""The drivers of this zone's markets and datastores, made from their records."""

from pathlib import Path

from drivers.registry import datastore_driver, market_driver
from federation.view import Found
from fedmarket.errors import Refused
from fedmarket.pb.fedmarket.v1.record_pb2 import DatastoreRecord, MarketRecord, Template
from zone_agent.config.layout import Layout


class Stores:
    """Where the bytes of a market or datastore are. A driver is made anew for each use, which touches no disk."""

    def __init__(self, zone: int, layout: Layout) -> None:
        self._zone = zone
        self._layout = layout

    def market(self, market: Found[MarketRecord]) -> object:
        """Return the driver of a market of this zone; ask it for capabilities by isinstance."""
        if market.home != self._zone:
            raise Refused(f"market {market.message.name!r} keeps its bytes in zone {market.home}: ask there")
        return self.market_driver(market.id, market.message.driver, attributes_of(market.message.template))

    def market_driver(self, market_id: int, driver: str, attributes: dict[str, str]) -> object:
        """Return the driver that a market with these attributes has. Raises BadInput."""
        return market_driver(driver).make(attributes, self._layout.markets / str(market_id))

    def datastore(self, datastore: Found[DatastoreRecord]) -> object:
        """Return the driver of a datastore."""
        message = datastore.message
        return datastore_driver(message.driver).make(attributes_of(message.template), self._default(datastore.id))

    def _default(self, datastore_id: int) -> Path:
        return self._layout.datastores / str(datastore_id)


def attributes_of(template: Template) -> dict[str, str]:
    """Return the plain attributes of a template; of a name that is there twice, the last."""
    return {a.name: a.value for a in template.attributes if a.WhichOneof("content") == "value"}


def template_of(attributes: dict[str, str]) -> Template:
    """Return a template of plain attributes, in order of their names."""
    template = Template()
    for name in sorted(attributes):
        template.attributes.add(name=name, value=attributes[name])
    return template
