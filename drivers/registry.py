"""Which drivers there are, and what each needs to know; a driver's code is loaded when it is first used."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from fedmarket.errors import BadInput

Kind = Literal["market", "datastore"]
DefaultScope = Literal["federation", "zone"]


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a market or datastore that its driver understands. Others are kept and mean nothing to it."""

    name: str
    help: str
    required: bool = False
    secret: bool = False
    """Sealed at rest, never shown, never sent to another zone."""
    place: bool = False
    """Says where the blobs are: another value finds none of those that were stored under the old one."""


@dataclass(frozen=True, slots=True)
class Driver:
    """What is known of a driver without loading it."""

    name: str
    """Also its name in OpenNebula: MARKET_MAD or DS_MAD."""
    kind: Kind
    summary: str
    module: str
    factory: str
    """Class in `module`, made by its `from_attributes(attributes, default directory)`."""
    attributes: tuple[Attribute, ...] = ()
    scope: DefaultScope = "zone"
    """Default of a market with this driver."""
    public: bool = False
    """Its apps are discovered upstream, not created here."""

    @property
    def secrets(self) -> frozenset[str]:
        """Names of the attributes that are never shown."""
        return frozenset(attribute.name for attribute in self.attributes if attribute.secret)

    @property
    def places(self) -> frozenset[str]:
        """Names of the attributes that say where the blobs are."""
        return frozenset(attribute.name for attribute in self.attributes if attribute.place)

    def make(self, attributes: Mapping[str, str], default: Path) -> object:
        """Make the driver for one market or datastore, without touching its store; ask for capabilities by isinstance.

        `default` is the directory of one whose attributes give none. Raises BadInput for a missing or bad attribute.
        """
        for attribute in self.attributes:
            if attribute.required and not attributes.get(attribute.name):
                raise BadInput(f"a {self.name} {self.kind} needs {attribute.name}: set it to {attribute.help}")
        made: object = getattr(import_module(self.module), self.factory).from_attributes(attributes, default)
        return made


_DRIVERS = (
    Driver(
        name="http",
        kind="market",
        summary="a directory of this host, published by a web server or by the agent itself",
        module="drivers.market.http",
        factory="HttpMarket",
        attributes=(
            Attribute("PUBLIC_DIR", "the absolute path of the directory (default: one of the agent's own)", place=True),
            Attribute("BASE_URL", "the URL at which a web server publishes PUBLIC_DIR (default: the agent serves it)"),
        ),
        scope="federation",
    ),
    Driver(
        name="fs",
        kind="datastore",
        summary="a directory of this host",
        module="drivers.datastore.fs",
        factory="FsDatastore",
        attributes=(Attribute("BASE_PATH", "the absolute path of the directory (default: one of the agent's own)"),),
    ),
)
MARKET_DRIVERS: Mapping[str, Driver] = MappingProxyType({d.name: d for d in _DRIVERS if d.kind == "market"})
DATASTORE_DRIVERS: Mapping[str, Driver] = MappingProxyType({d.name: d for d in _DRIVERS if d.kind == "datastore"})


def market_driver(name: str) -> Driver:
    """Return the market driver of that name. Raises BadInput that names those there are."""
    return _known(MARKET_DRIVERS, name, "market")


def datastore_driver(name: str) -> Driver:
    """Return the datastore driver of that name. Raises BadInput that names those there are."""
    return _known(DATASTORE_DRIVERS, name, "datastore")


def _known(drivers: Mapping[str, Driver], name: str, kind: Kind) -> Driver:
    try:
        return drivers[name]
    except KeyError:
        raise BadInput(f"there is no {kind} driver {name[:40]!r}: choose one of {', '.join(sorted(drivers))}") from None
