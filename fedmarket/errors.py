"""Every error that can reach a user: one tree, by cause, and one table of what each cause means on each wire.

A message is one sentence that says what is wrong, where, and what to do next. It never holds a secret or a signed URL.
"""

from dataclasses import dataclass


class FedmarketError(Exception):
    """Root of the tree. Raised itself only for faults of our own (see `Internal`)."""

    def __init__(self, message: str, **details: str) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        """Facts for programs, for instance the home zone and its endpoint; sent as gRPC trailing metadata."""


class Internal(FedmarketError):
    """A fault of fedmarket itself."""


class BadInput(FedmarketError):
    """What was asked cannot be understood: a name, a number, a file, a setting."""


class ConfigError(BadInput):
    """The configuration or the state directory does not hold."""


class Unauthenticated(FedmarketError):
    """Nobody we know asked."""


class Denied(FedmarketError):
    """The principal may not do this."""


class NotFound(FedmarketError):
    """There is no such thing here."""


class AlreadyExists(FedmarketError):
    """The name is taken."""


class Refused(FedmarketError):
    """Understood and permitted, but not in this state."""


class NotHome(Refused):
    """The rule: an app is created only in a market of the local zone."""


class TooLarge(FedmarketError):
    """A message, a record or a range of ids is over its limit."""


class NoSpace(FedmarketError):
    """A disk, a quota or etcd is full."""


class Unavailable(FedmarketError):
    """Something that is needed does not answer; asking again may help."""


class Timeout(Unavailable):
    """It did not answer within its deadline."""


class OutcomeUnknown(FedmarketError):
    """A change was sent and may or may not have been applied."""


class Corrupt(FedmarketError):
    """Bytes are not what their digest or signature says."""


class Cancelled(FedmarketError):
    """Whoever asked has gone, or the agent is stopping."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What an error class is called on each wire."""

    code: str
    """Stable code for programs; trailing metadata `fedmarket-code`."""
    grpc: str
    """Name of the gRPC status code of the native API."""
    opennebula: int
    """OpenNebula's error code."""
    exit_code: int
    """Exit status of the `fedmarket` command."""
    retryable: bool = False


CAUSES: dict[type[FedmarketError], Cause] = {
    FedmarketError: Cause("internal", "INTERNAL", 0x2000, 1),
    Internal: Cause("internal", "INTERNAL", 0x2000, 1),
    BadInput: Cause("bad-input", "INVALID_ARGUMENT", 0x1000, 2),
    ConfigError: Cause("config", "INVALID_ARGUMENT", 0x1000, 2),
    NotFound: Cause("not-found", "NOT_FOUND", 0x0400, 3),
    AlreadyExists: Cause("already-exists", "ALREADY_EXISTS", 0x4000, 4),
    Refused: Cause("refused", "FAILED_PRECONDITION", 0x0800, 4),
    NotHome: Cause("not-home", "FAILED_PRECONDITION", 0x0800, 4),
    TooLarge: Cause("too-large", "RESOURCE_EXHAUSTED", 0x1000, 4),
    NoSpace: Cause("no-space", "RESOURCE_EXHAUSTED", 0x2000, 4),
    Unauthenticated: Cause("unauthenticated", "UNAUTHENTICATED", 0x0100, 5),
    Denied: Cause("denied", "PERMISSION_DENIED", 0x0200, 5),
    Unavailable: Cause("unavailable", "UNAVAILABLE", 0x2000, 6, retryable=True),
    Timeout: Cause("timeout", "DEADLINE_EXCEEDED", 0x2000, 6, retryable=True),
    OutcomeUnknown: Cause("unknown", "ABORTED", 0x2000, 7),
    Corrupt: Cause("corrupt", "DATA_LOSS", 0x2000, 8),
    Cancelled: Cause("cancelled", "CANCELLED", 0x2000, 1),
}
"""The one table. A class that is not in it takes the row of its nearest base."""

EXIT_CODES = {
    0: "done",
    1: "a fault of fedmarket itself, or the command was interrupted",
    2: "bad input: an argument, a name, a file, the configuration",
    3: "not found",
    4: "refused: the name is taken, the state does not allow it, a limit or a disk is full",
    5: "not authenticated, or not permitted",
    6: "something did not answer; asking again may help",
    7: "unknown: the change may or may not have been applied",
    8: "bytes do not match their digest",
}
"""Meaning of each exit status of the `fedmarket` command."""


def cause_of(error: FedmarketError | type[FedmarketError]) -> Cause:
    """Return the row of the table for an error or its class."""
    cls = error if isinstance(error, type) else type(error)
    return next(CAUSES[base] for base in cls.__mro__ if base in CAUSES)


_BY_CODE = {cause.code: cls for cls, cause in reversed(CAUSES.items())}


def error_of(code: str, message: str) -> FedmarketError:
    """Return the error that was told by its code; Refused for a code that this version does not know."""
    return _BY_CODE.get(code, Refused)(message)
