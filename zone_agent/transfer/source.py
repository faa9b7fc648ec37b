"""A source of bytes: a URL that answers ranged GETs, and what we know of how it behaves."""

from dataclasses import dataclass, field

from yarl import URL

from fedmarket.errors import Corrupt, FedmarketError, Timeout, Unavailable


class Fault(Exception):
    """What a source did wrong, as a phrase that follows its name ("refused the connection")."""

    def __init__(self, reason: str, *, cause: type[FedmarketError] = Unavailable, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cause = cause
        self.hopeless = hopeless
        """Asking the same source again cannot help."""


class Changed(Exception):
    """The blob at a source changed while it was read."""

    def __init__(self, source: "Source") -> None:
        super().__init__()
        self.source = source


class NoSourceLeft(Exception):
    """Every source has been given up."""


@dataclass(slots=True, eq=False)
class Source:
    """One source, through all the requests of one transfer."""

    url: URL = field(repr=False)
    """May be signed: never in a message or a log."""
    name: str
    """Host and port, for people."""
    failures: int = 0
    """In a row, each with little gained."""
    fault: Fault | None = None
    """The last one."""
    dropped: bool = False
    used: bool = False
    """It gave bytes in this pass."""
    _validator: str | None = None
    _changes: bool = False

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Take a URL as it is. One that is not http or https gives a source that is dropped from the start."""
        try:
            url = parse_url(text)
        except Fault as fault:
            return cls(URL(), "a source without a usable URL", fault=fault, dropped=True)
        host = url.host or ""
        host = f"[{host}]" if ":" in host else host
        return cls(url, host if url.explicit_port is None else f"{host}:{url.explicit_port}")

    def begin(self) -> None:
        """Forget what belongs to the last pass over the blob."""
        self.failures = 0
        self.used = False
        self._validator = None

    def see(self, validator: str | None) -> None:
        """Note the ETag (or Last-Modified) of a response. Raises Changed the first time that it is another one.

        After that it is no longer compared: a source whose ETags go on changing is several servers with the same bytes,
        or not; the digest decides.
        """
        before, self._validator = self._validator, validator
        if validator is not None and before is not None and validator != before and not self._changes:
            self._changes = True
            raise Changed(self)

    def fail(self, fault: Fault, attempts: int, *, gained: bool) -> None:
        """Note a fault. The source is dropped when asking it again is hopeless, or was tried often enough."""
        self.fault = fault
        self.failures = 1 if gained else self.failures + 1
        self.dropped = fault.hopeless or self.failures >= attempts


def parse_url(text: str) -> URL:
    """Return a URL whose encoding is left as it is: a signature may cover it. Raises Fault."""
    plain = text.isascii() and text.isprintable() and " " not in text
    try:
        url = URL(text, encoded=plain)
        usable = url.scheme in {"http", "https"} and bool(url.host) and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Fault("is not at an http or https URL", hopeless=True)
    return url


def failure(sources: list[Source]) -> FedmarketError:
    """Return the error that says why no source gave the bytes: one sentence, without a URL."""
    faults = [source.fault for source in sources if source.fault is not None]
    if not faults:
        return Unavailable("no zone says that it holds these bytes: check that the app's market still has them")
    reasons = ", and ".join(f"{source.name} {source.fault}" for source in sources if source.fault is not None)
    if any(fault.cause is Corrupt for fault in faults):
        return Corrupt(f"{reasons}: nothing was kept; have the blob checked at its source")
    cause = Timeout if all(fault.cause is Timeout for fault in faults) else Unavailable
    return cause(f"{reasons}: check that the source is up and reachable from here, then try again")
