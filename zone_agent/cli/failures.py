"""gRPC's failures as errors of our tree: one sentence each, and by their class an exit code."""

import grpc

from fedmarket.errors import (
    CAUSES,
    FedmarketError,
    Internal,
    OutcomeUnknown,
    Timeout,
    Unauthenticated,
    Unavailable,
)
from zone_agent.cli.connection import Connection

CODE_KEY = "fedmarket-code"

_BY_CODE = {cause.code: cls for cls, cause in CAUSES.items()}
# Several classes share a status; the table lists the general one first.
_BY_STATUS = {cause.grpc: cls for cls, cause in reversed(CAUSES.items())}

_NEVER_SENT = ("failed to connect", "errors resolving")
"""How gRPC's own words begin where it had no connection to send on."""

_UNREACHABLE = (
    ("Connection refused", "no agent listens at {at}: start it, or give its address by --endpoint"),
    ("errors resolving", "the host name in {at} is not known: correct the endpoint"),
    (
        "Failed parsing HTTP/2",
        "what listens at {at} does not speak gRPC: give the agent's gRPC port (by default 7634, not 7633)",
    ),
    ("WRONG_VERSION_NUMBER", "what listens at {at} does not speak TLS: give the endpoint without https://"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the certificate of {at} is not trusted here: give the CA that issued it by --ca-file",
    ),
    ("Hostname Verification", "the certificate of {at} is for another name: give the endpoint by a name that is in it"),
    ("security handshaker", "the file given by --ca-file holds no usable certificate: give one in PEM"),
    (
        "last error: UNAVAILABLE",
        "what listens at {at} closed the connection: if it serves TLS write https://{at}, else look at the agent's log",
    ),
)


def failure(error: grpc.RpcError, connection: Connection, *, change: bool) -> FedmarketError:
    """Return what to raise for a failed call.

    `change`: the call asked for one, so that without an answer it is not known whether it was made.
    """
    status = error.code().name
    said = error.details() or ""
    code = next((str(item.value) for item in error.trailing_metadata() or () if item.key == CODE_KEY), None)
    if code is not None:
        cls = _BY_CODE.get(code) or _BY_STATUS.get(status, Internal)
        return cls(said)
    at = connection.address
    if status == "UNAVAILABLE":
        if said.startswith(_NEVER_SENT):
            return Unavailable(_unreachable(said, connection))
        return _cut_off(f"the connection to the agent at {at} broke", change)
    if status == "DEADLINE_EXCEEDED":
        return silent(connection, change=change)
    if status == "UNIMPLEMENTED":
        return Internal(f"what listens at {at} does not know this command: give the client port of a fedmarket agent")
    if status == "UNAUTHENTICATED":
        return Unauthenticated(f"the agent at {at} does not accept the credentials: check the file that holds them")
    cls = _BY_STATUS.get(status, Internal)
    return cls(f"the call to {at} failed ({status}: {said}): look at the agent's log")


def silent(connection: Connection, *, change: bool) -> FedmarketError:
    """Return what to raise when nothing was heard for too long."""
    heard_nothing = f"the agent at {connection.address} did not answer within {connection.timeout:g} s"
    if change:
        return _cut_off(heard_nothing, change)
    return Timeout(f"{heard_nothing}: try again, or allow more by --timeout")


def _unreachable(said: str, connection: Connection) -> str:
    at = connection.address
    for sign, sentence in _UNREACHABLE:
        if sign in said:
            return sentence.format(at=at)
    return f"the agent at {at} cannot be reached: check the endpoint and the network"


def _cut_off(happened: str, change: bool) -> FedmarketError:
    if change:
        return OutcomeUnknown(f"{happened}, and the change may or may not have been made: look before you ask again")
    return Unavailable(f"{happened}: try again")
