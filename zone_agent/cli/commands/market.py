"""`fedmarket market`: marketplaces of all zones."""

from enum import Enum
from typing import Annotated

import typer

from fedmarket.pb.fedmarket.v1.change_pb2 import Delete, Verb
from fedmarket.pb.fedmarket.v1.common_pb2 import SCOPE_UNSPECIFIED, Scope
from fedmarket.pb.fedmarket.v1.market_pb2 import (
    CreateMarketRequest,
    ListMarketsRequest,
    ShowMarketRequest,
)
from fedmarket.pb.fedmarket.v1.market_pb2_grpc import MarketServiceStub
from zone_agent.cli.changes import RequestId, ask_change
from zone_agent.cli.client import Client, client_command
from zone_agent.cli.groups import group
from zone_agent.cli.output import Column, available, capacity, column, number
from zone_agent.cli.session import ref
from zone_agent.cli.verbs import add_monitor, add_verbs, parse_attributes

commands = group()

MarketRef = Annotated[str, typer.Argument(metavar="MARKET", help="Id, name, or name@zone.")]

COLUMNS = (
    number("ID", "id"),
    column("NAME", "name"),
    Column("SIZE", capacity, right=True),
    Column("AVAIL", available, right=True),
    number("APPS", "app_count"),
    column("MAD", "driver"),
    column("SCOPE", "scope"),
    column("ZONE", "zone"),
    column("STAT", "state"),
)


class Range(Enum):
    """Where a market is seen."""

    FEDERATION = "federation"
    ZONE = "zone"


@client_command(commands, "create")
def create(
    client: Client,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the market, unique in the zone.")],
    driver: Annotated[
        str, typer.Option("--driver", metavar="DRIVER", help="How its apps are kept, for instance http.")
    ],
    scope: Annotated[Range | None, typer.Option("--scope", help="Who sees it; without, as the driver says.")] = None,
    attributes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the driver (BASE_URL, PUBLIC_DIR); repeatable."),
    ] = None,
) -> None:
    """Make a market of this zone."""
    request = CreateMarketRequest(
        name=name,
        driver=driver,
        scope=SCOPE_UNSPECIFIED if scope is None else Scope.Value(f"SCOPE_{scope.name}"),
        attributes=parse_attributes(attributes or []),
    )
    stub = client.session.stub(MarketServiceStub)
    client.out.show(client.session.call(stub.Create, request, change=True))


@client_command(commands, "list")
def list_markets(client: Client) -> None:
    """List the markets of all zones."""
    stub = client.session.stub(MarketServiceStub)
    pages = client.session.pages(stub.List, lambda page: ListMarketsRequest(page=page))
    client.out.table((market for page in pages for market in page.markets), COLUMNS)


@client_command(commands, "show")
def show(client: Client, market: MarketRef) -> None:
    """Show a market."""
    stub = client.session.stub(MarketServiceStub)
    client.out.show(client.session.call(stub.Show, ShowMarketRequest(market=ref(market))))


@client_command(commands, "delete")
def delete(client: Client, market: MarketRef, request_id: RequestId = None) -> None:
    """Delete a market. Refused while it holds apps."""
    changed = ask_change(client, "market", market, Verb(delete=Delete()), request_id)
    client.out.done(f"deleted market {changed.id}", id=changed.id)


add_verbs(commands, "market")
add_monitor(commands)
