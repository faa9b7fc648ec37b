"""`fedmarket request`: changes whose answer was lost."""

from typing import Annotated

import typer

from fedmarket.pb.fedmarket.v1.change_pb2 import ResolveRequest
from fedmarket.pb.fedmarket.v1.change_pb2_grpc import ChangeServiceStub
from zone_agent.cli.client import Client, client_command
from zone_agent.cli.groups import group
from zone_agent.cli.session import ref

commands = group()


@client_command(commands, "resolve")
def resolve(
    client: Client,
    request_id: Annotated[str, typer.Argument(metavar="ID", help="What the command that got no answer named.")],
    zone: Annotated[
        str | None,
        typer.Option("--zone", metavar="ZONE", help="That was to make the change: id or name. Without: this zone."),
    ] = None,
) -> None:
    """Make definite what became of a change: it was made, or it was not and never will be."""
    stub = client.session.stub(ChangeServiceStub)
    request = ResolveRequest(request_id=request_id, zone=None if zone is None else ref(zone))
    resolved = client.session.call(stub.Resolve, request)
    if client.out.as_json:
        client.out.show(resolved)
    elif resolved.done:
        client.out.done(f"done: the change was made (id {resolved.id})")
    else:
        client.out.done(f"not done: {resolved.text}")
