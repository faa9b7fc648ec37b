"""`fedmarket federation`: how this zone follows its peers."""

from fedmarket.pb.fedmarket.v1.zone_pb2 import FederationStatusRequest
from fedmarket.pb.fedmarket.v1.zone_pb2_grpc import FederationServiceStub
from zone_agent.cli.client import Client, client_command
from zone_agent.cli.groups import group
from zone_agent.cli.output import Column, age, column, head, number

commands = group()

COLUMNS = (
    number("ZONE", "zone_id"),
    column("NAME", "name"),
    column("STATE", "state"),
    Column("HERE", lambda row: head(row["here"])),
    Column("THERE", lambda row: head(row["there"])),
    Column("AGE", lambda row: age(row["age_seconds"]), right=True),
    column("ADDRESS", "address"),
    column("LAST ERROR", "last_error"),
)


@client_command(commands, "status")
def status(client: Client) -> None:
    """Show the link to each peer: its state, the peer's head (epoch/seq) held here and known there, its age."""
    stub = client.session.stub(FederationServiceStub)
    client.out.table(client.session.call(stub.Status, FederationStatusRequest()).links, COLUMNS)
