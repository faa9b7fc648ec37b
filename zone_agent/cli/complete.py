"""Completion of values: the drivers there are, and names that the agent knows. It is quick, or silent."""

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from drivers.registry import MARKET_DRIVERS
from fedmarket.errors import FedmarketError
from fedmarket.pb.fedmarket.v1.app_pb2 import ListAppsRequest
from fedmarket.pb.fedmarket.v1.app_pb2_grpc import AppServiceStub
from fedmarket.pb.fedmarket.v1.image_pb2 import ListDatastoresRequest, ListImagesRequest
from fedmarket.pb.fedmarket.v1.image_pb2_grpc import DatastoreServiceStub, ImageServiceStub
from fedmarket.pb.fedmarket.v1.market_pb2 import ListMarketsRequest
from fedmarket.pb.fedmarket.v1.market_pb2_grpc import MarketServiceStub
from fedmarket.pb.fedmarket.v1.zone_pb2 import ListZonesRequest
from fedmarket.pb.fedmarket.v1.zone_pb2_grpc import ZoneServiceStub
from zone_agent.cli.options import Given
from zone_agent.cli.session import Session

SECONDS = 1.0
"""For the agent to answer, while a person waits with a finger on the key."""


def complete_values(command: Any) -> None:
    """Let the parameters of a command complete by what their metavar says they are."""
    for parameter in command.params:
        names = _NAMES.get((parameter.metavar or "").strip("[]"))
        if names is not None:
            parameter._custom_shell_complete = _completing(names)


def _completing(names: Callable[[Given], Iterable[str]]) -> Callable[[Any, Any, str], list[str]]:
    def complete(context: Any, _parameter: Any, incomplete: str) -> list[str]:
        try:
            found = names(_given(context))
            return [name for name in found if name.startswith(incomplete) and name.isprintable()]
        except FedmarketError:
            return []  # no agent, no credentials: there is nothing to offer, and nobody to tell

    return complete


def _given(context: Any) -> Given:
    """Return whom to ask: what stands on the line or in the environment. No callback has run yet."""
    places = (context.params, context.find_root().params)
    endpoint, credentials, ca_file = (
        next((place[name] for place in places if place.get(name)), None)
        for name in ("endpoint", "credentials", "ca_file")
    )
    return Given(endpoint, credentials and Path(credentials), SECONDS, ca_file and Path(ca_file))


def _listed(ask: Callable[[Session], Iterable[Any]]) -> Callable[[Given], list[str]]:
    """Return what asks an agent for the names of the first page of a list."""

    def names(given: Given) -> list[str]:
        with closing(Session(given.connection())) as session:
            return sorted(each.name for each in ask(session))

    return names


def _markets(session: Session) -> Iterable[Any]:
    return session.call(session.stub(MarketServiceStub).List, ListMarketsRequest()).markets


def _apps(session: Session) -> Iterable[Any]:
    return session.call(session.stub(AppServiceStub).List, ListAppsRequest()).apps


def _images(session: Session) -> Iterable[Any]:
    return session.call(session.stub(ImageServiceStub).List, ListImagesRequest()).images


def _datastores(session: Session) -> Iterable[Any]:
    return session.call(session.stub(DatastoreServiceStub).List, ListDatastoresRequest()).datastores


def _zones(session: Session) -> Iterable[Any]:
    return session.call(session.stub(ZoneServiceStub).List, ListZonesRequest()).zones


_NAMES: dict[str, Callable[[Given], Iterable[str]]] = {
    "MARKET": _listed(_markets),
    "APP": _listed(_apps),
    "IMAGE": _listed(_images),
    "DATASTORE": _listed(_datastores),
    "ZONE": _listed(_zones),
    "DRIVER": lambda _given: sorted(MARKET_DRIVERS),
}
"""By metavar."""
