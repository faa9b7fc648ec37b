"""Asking for a change of a record of any zone, in a way that can be asked again."""

import secrets
from typing import Annotated

import typer

from fedmarket.errors import OutcomeUnknown
from fedmarket.pb.fedmarket.v1.change_pb2 import ChangeRequest, ChangeResponse, Verb
from fedmarket.pb.fedmarket.v1.change_pb2_grpc import ChangeServiceStub
from zone_agent.cli.client import Client
from zone_agent.cli.session import ref

RequestId = Annotated[
    str | None,
    typer.Option(
        "--request-id",
        metavar="ID",
        help="Ask again for a change whose answer was lost: it is made at most once. Each command has its own id.",
    ),
]


def ask_change(client: Client, kind: str, named: str, verb: Verb, request_id: str | None = None) -> ChangeResponse:
    """Ask for a change and return what came of it. Raises OutcomeUnknown, with what to do, if no answer came."""
    request = ChangeRequest(kind=kind, ref=ref(named), verb=verb, request_id=request_id or secrets.token_hex(16))
    stub = client.session.stub(ChangeServiceStub)
    try:
        return client.session.call(stub.Change, request, change=True)
    except OutcomeUnknown as error:
        if request.request_id in error.message:
            raise
        raise OutcomeUnknown(
            f"{error.message}, or ask again with `--request-id {request.request_id}`, which makes it at most once"
        ) from None
