"""`fedmarket datastore`: where this zone keeps images."""

from typing import Annotated

import typer

from fedmarket.pb.fedmarket.v1.image_pb2 import ListDatastoresRequest, ShowDatastoreRequest
from fedmarket.pb.fedmarket.v1.image_pb2_grpc import DatastoreServiceStub
from zone_agent.cli.client import Client, client_command
from zone_agent.cli.groups import group
from zone_agent.cli.output import Column, available, capacity, column, number
from zone_agent.cli.session import ref

commands = group()

COLUMNS = (
    number("ID", "id"),
    column("NAME", "name"),
    Column("SIZE", capacity, right=True),
    Column("AVAIL", available, right=True),
    number("IMAGES", "image_count"),
    column("TYPE", "type"),
    column("DS", "driver"),
    column("STAT", "state"),
)


@client_command(commands, "list")
def list_datastores(client: Client) -> None:
    """List the datastores."""
    stub = client.session.stub(DatastoreServiceStub)
    client.out.table(client.session.call(stub.List, ListDatastoresRequest()).datastores, COLUMNS)


@client_command(commands, "show")
def show(client: Client, datastore: Annotated[str, typer.Argument(metavar="DATASTORE", help="Id or name.")]) -> None:
    """Show a datastore."""
    stub = client.session.stub(DatastoreServiceStub)
    client.out.show(client.session.call(stub.Show, ShowDatastoreRequest(datastore=ref(datastore))))
