"""What etcd's errors mean to us: one table from gRPC status and etcd's message text to our tree.

The texts are those of etcd's rpctypes, the same in 3.4 and later. They are needed where one status code stands
for several causes, and in a watch, which is cancelled with a text only.
"""

from dataclasses import dataclass

from grpc import StatusCode
from grpc.aio import AioRpcError

from federation.store import Compacted, StoreUnavailable
from fedmarket.errors import Denied, FedmarketError, NoSpace, NotFound, TooLarge

_LONGEST_DETAIL = 300  # characters of the server's text that are worth a person's time


class FutureRevision(StoreUnavailable):
    """The revision asked for has not happened yet, in this store."""


class NotLoggedIn(Denied):
    """etcd does not know who asks, and did nothing: a new token helps whoever has a password."""


class AuthChanged(NotLoggedIn):
    """Users or roles changed between a request's arrival and its turn, so etcd did nothing: asking again helps."""


class AuthDisabled(StoreUnavailable):
    """etcd asks nobody who it is, so nobody can log in."""


@dataclass(frozen=True, slots=True)
class _Meaning:
    code: StatusCode | None
    """None: whatever the code."""
    text: str
    """Must be part of the message, in any case of letters."""
    error: type[FedmarketError] | type[Compacted]
    advice: str


_UNAVAILABLE = _Meaning(None, "", StoreUnavailable, "check that it runs, can be reached and has a quorum")

_DENIED = "grant the etcd user of this agent, by its certificate or [etcd] user, the role for its keys"
_LOG_IN = "give this agent a certificate or a user and password that etcd knows, in [etcd]"
_SMALLER = "make the change in smaller parts"

MEANINGS = (
    _Meaning(StatusCode.OUT_OF_RANGE, "revision has been compacted", Compacted, "list again"),
    _Meaning(StatusCode.OUT_OF_RANGE, "future revision", FutureRevision, "check that it is the etcd it was"),
    _Meaning(StatusCode.NOT_FOUND, "requested lease not found", NotFound, "take a new lease"),
    _Meaning(StatusCode.RESOURCE_EXHAUSTED, "message larger than max", TooLarge, _SMALLER),
    _Meaning(StatusCode.INVALID_ARGUMENT, "request is too large", TooLarge, _SMALLER),
    _Meaning(StatusCode.INVALID_ARGUMENT, "too many operations", TooLarge, _SMALLER),
    _Meaning(
        StatusCode.RESOURCE_EXHAUSTED,
        "database space exceeded",
        NoSpace,
        "compact and defragment it, or raise its quota, then disarm its NOSPACE alarm",
    ),
    _Meaning(StatusCode.FAILED_PRECONDITION, "user name not found", NotFound, "make that user"),
    _Meaning(StatusCode.FAILED_PRECONDITION, "role name not found", NotFound, "make that role"),
    _Meaning(StatusCode.PERMISSION_DENIED, "", Denied, _DENIED),
    _Meaning(StatusCode.UNAUTHENTICATED, "", NotLoggedIn, _LOG_IN),
    _Meaning(None, "invalid auth token", NotLoggedIn, _LOG_IN),
    _Meaning(None, "user name is empty", NotLoggedIn, _LOG_IN),
    # 3.4 has another word for it than 3.5.
    _Meaning(None, "revision of auth store is old", AuthChanged, _LOG_IN),
    _Meaning(None, "revision in header is old", AuthChanged, _LOG_IN),
    _Meaning(
        None,
        "authentication failed, invalid user id or password",
        Denied,
        "correct [etcd] user and what its password_file holds",
    ),
    _Meaning(
        None, "authentication is not enabled", AuthDisabled, "remove [etcd] user, or enable etcd's access control"
    ),
    _Meaning(None, "permission denied", Denied, _DENIED),
    _UNAVAILABLE,
)
"""First match wins. What nobody foresaw counts as a store that does not answer, so that nobody acts on it."""


def meaning(code: StatusCode, text: str, *, doing: str, where: str) -> FedmarketError | Compacted:
    """Return the error of our tree, worded, for a status that etcd at `where` gave while `doing` something."""
    lowered = text.lower()
    row = next(row for row in MEANINGS if row.code in (None, code) and row.text in lowered)
    detail = f"{code.name}: {text}"[:_LONGEST_DETAIL].rstrip(".")
    return row.error(f"etcd at {where} failed to {doing} ({detail}): {row.advice}")


def from_rpc(error: AioRpcError, *, doing: str, where: str) -> FedmarketError | Compacted:
    """Return the error of our tree for a call that failed."""
    return meaning(error.code(), error.details() or "no details", doing=doing, where=where)


def no_answer(what: str, *, where: str) -> StoreUnavailable:
    """Return the error for an etcd that says nothing, or nothing that can be used."""
    return StoreUnavailable(f"etcd at {where} {what}: {_UNAVAILABLE.advice}")
