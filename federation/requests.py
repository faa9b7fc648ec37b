"""What became of the changes that were asked for with a request id, so that asking again makes no second one.

It is noted beside the change, in the same transaction: where the note is, the change is. A request that was not made
is noted too, before anybody is told so: its change cannot be applied later, as its commit would find the note there.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from federation.draft import Draft
from federation.keys import Keyspace
from federation.store import Store, Txn
from fedmarket.errors import BadInput, FedmarketError, OutcomeUnknown, Refused, cause_of
from fedmarket.pb.fedmarket.v1.peer_pb2 import Refusal, RequestRecord

_ID = re.compile(r"[A-Za-z0-9_-]{16,64}", re.ASCII)

NEVER_MADE = Refusal(
    code="cancelled",
    text="the change was not made, and never will be: ask for it with a new request id",
)


@dataclass(frozen=True, slots=True)
class RequestId:
    """A request, named by the zone in which it was asked: no zone can speak of another's."""

    zone: int
    id: str

    @classmethod
    def of(cls, zone: int, text: str) -> "RequestId":
        """Check what a client gave. Raises BadInput."""
        if not _ID.fullmatch(text):
            raise BadInput(
                f"{text[:64]!r} is no request id: give 16 to 64 letters, digits, dashes and underscores, and a new one "
                "for each change"
            )
        return cls(zone, text)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that is about to be made: notes what becomes of it in the commits that make it."""

    request: RequestId
    key: str
    digest: bytes
    """SHA-256 of what is asked for."""
    time: int
    """Unix seconds."""

    def made(self, draft: Draft, record_id: int) -> None:
        """Note that the change is made, for the first time. Raises Repeated."""
        draft.note(self.key, self._record(record_id), first=True)

    def begun(self, draft: Draft, record_id: int) -> None:
        """Note that a change of several steps has begun. Raises Repeated."""
        draft.note(self.key, self._record(record_id, running=True), first=True)

    def ended(self, draft: Draft, record_id: int) -> None:
        """Note that the last step is made of what had begun."""
        draft.note(self.key, self._record(record_id), first=False)

    def refused(self, draft: Draft, refusal: Refusal) -> None:
        """Note that what had begun came to nothing."""
        record = RequestRecord(change=self.digest, time=self.time, refusal=refusal)
        draft.note(self.key, record.SerializeToString(), first=False)

    def _record(self, record_id: int, *, running: bool = False) -> bytes:
        return RequestRecord(change=self.digest, time=self.time, running=running, id=record_id).SerializeToString()


class Requests:
    """What this zone has noted of requests."""

    def __init__(self, store: Store, keyspace: Keyspace, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._keyspace = keyspace
        self._clock = clock

    def ticket(self, request: RequestId, digest: bytes) -> Ticket:
        """Return what notes a request; `digest` is of what it asks for."""
        return Ticket(request, self._key(request), digest, int(self._clock()))

    async def find(self, request: RequestId) -> tuple[RequestRecord, int] | None:
        """Return what is noted of a request and the store's revision of it, read linearizably. Raises Unavailable."""
        stored = await self._store.get(self._key(request))
        return None if stored is None else (RequestRecord.FromString(stored.value), stored.mod_revision)

    async def refuse(self, request: RequestId, refusal: Refusal, digest: bytes = b"") -> RequestRecord:
        """Note that a request was not made, and never will be; return what is noted of it, which may be otherwise."""
        key = self._key(request)
        record = RequestRecord(change=digest, time=int(self._clock()), refusal=refusal)
        while True:
            txn = Txn({key: 0}, puts={key: record.SerializeToString()}, read_on_failure=key)
            result = await self._store.txn(txn)
            if result.succeeded:
                return record
            if result.current is not None:  # else it expired just now
                return RequestRecord.FromString(result.current.value)

    def _key(self, request: RequestId) -> str:
        return self._keyspace.request(request.zone, request.id)


def refusal_of(error: FedmarketError) -> Refusal:
    """Return an error as it is noted and told to another zone: as definite, whatever it was, since it is noted."""
    cause = cause_of(error)
    definite = not (cause.retryable or isinstance(error, OutcomeUnknown))
    return Refusal(code=cause.code if definite else cause_of(Refused).code, text=error.message)
