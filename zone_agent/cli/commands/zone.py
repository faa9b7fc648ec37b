"""`fedmarket zone`: the zones that this one knows."""

from typing import Annotated

import typer

from fedmarket.pb.fedmarket.v1.zone_pb2 import ListZonesRequest, ShowZoneRequest
from fedmarket.pb.fedmarket.v1.zone_pb2_grpc import ZoneServiceStub
from zone_agent.cli.client import Client, client_command
from zone_agent.cli.groups import group
from zone_agent.cli.output import Column, column, head, number
from zone_agent.cli.session import ref

commands = group()

COLUMNS = (
    Column("", lambda row: "*" if row["local"] else ""),
    number("ID", "id"),
    column("NAME", "name"),
    column("ENDPOINT", "grpc_endpoint"),
    Column("HEAD", lambda row: head(row["head"])),
    column("VERSION", "version"),
    column("STAT", "state"),
)


@client_command(commands, "list")
def list_zones(client: Client) -> None:
    """List this zone (*) and its peers."""
    stub = client.session.stub(ZoneServiceStub)
    client.out.table(client.session.call(stub.List, ListZonesRequest()).zones, COLUMNS)


@client_command(commands, "show")
def show(
    client: Client,
    zone: Annotated[str | None, typer.Argument(metavar="[ZONE]", help="Id or name; without it, this zone.")] = None,
) -> None:
    """Show a zone."""
    stub = client.session.stub(ZoneServiceStub)
    client.out.show(client.session.call(stub.Show, ShowZoneRequest(zone=None if zone is None else ref(zone))))
