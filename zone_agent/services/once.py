"""Making each request once, however often and to whichever agent of the zone it comes."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from federation.catalog import Catalog
from federation.draft import Repeated
from federation.requests import NEVER_MADE, RequestId, Requests, Ticket, refusal_of
from fedmarket.errors import BadInput, FedmarketError, NoSpace, OutcomeUnknown, Refused, Unavailable, error_of
from fedmarket.pb.fedmarket.v1.change_pb2 import Change
from fedmarket.pb.fedmarket.v1.peer_pb2 import RequestRecord
from fedmarket.threads import ended, uninterrupted

Work = Callable[[Ticket], Awaitable[int]]
"""Makes the change, with the ticket noted in its commit, and returns the record's id."""


@dataclass(frozen=True, slots=True)
class _Running:
    digest: bytes
    task: asyncio.Task[int]


class Once:
    """The requests that this agent makes, and what the zone has noted of those before."""

    def __init__(self, requests: Requests, catch_up_seconds: float) -> None:
        self._requests = requests
        self._catch_up_seconds = catch_up_seconds
        self._running: dict[RequestId, _Running] = {}

    @uninterrupted
    async def make(self, request: RequestId, change: Change, catalog: Catalog, work: Work) -> int:
        """Make a request's change of a catalog, unless it was made before, and return the record's id.

        What was made is seen in the catalog here. Raises what the work raises: then nothing was changed, and never
        will be by this request, but for Unavailable, which says that it can be asked again, and OutcomeUnknown.
        """
        digest = _digest(change)
        running = self._running.get(request)
        if running is None:
            running = _Running(digest, asyncio.create_task(self._make(request, digest, catalog, work)))
            self._running[request] = running
            running.task.add_done_callback(lambda _: self._running.pop(request))
        elif running.digest != digest:
            raise _of_another(request)
        return await asyncio.shield(running.task)

    async def noted(self, request: RequestId) -> RequestRecord | None:
        """Return what is noted of a request. Raises Unavailable."""
        found = await self._requests.find(request)
        return None if found is None else found[0]

    async def settle(self, request: RequestId) -> RequestRecord:
        """Return what became of a request; one that was not made never will be. Raises Unavailable while it is."""
        running = self._running.get(request)
        if running is not None:
            await ended(running.task)
        stands = await self._requests.refuse(request, NEVER_MADE)
        if stands.running:
            raise _at_work(request)
        return stands

    async def _make(self, request: RequestId, digest: bytes, catalog: Catalog, work: Work) -> int:
        made = await self._made(request, digest, catalog)
        if made is not None:
            return made
        ticket = self._requests.ticket(request, digest)
        try:
            return await work(ticket)
        except Repeated as error:  # by another agent of this zone, just now
            made = await self._made(request, digest, catalog)
            if made is None:
                raise Unavailable(f"{error.message}, but has expired: look before you ask again") from error
            return made
        except OutcomeUnknown as error:
            reason: FedmarketError = Refused(f"{error.message}; by now it is sure that it was not: ask anew")
        except Unavailable:
            raise
        except FedmarketError as error:
            reason = error
        return await self._refuse(request, ticket, reason)

    async def _made(self, request: RequestId, digest: bytes, catalog: Catalog) -> int | None:
        """Return what was made of a request before, once it is seen here; None if nothing is known of it."""
        found = await self._requests.find(request)
        if found is None:
            return None
        record, revision = found
        made = _outcome(request, record, digest)
        await catalog.wait_applied(revision, self._catch_up_seconds)
        return made

    async def _refuse(self, request: RequestId, ticket: Ticket, reason: FedmarketError) -> int:
        """Raise why a request was not made, once that is noted; return what was made if it was made all the same."""
        try:
            stands = await self._requests.refuse(request, refusal_of(reason), ticket.digest)
        except NoSpace:  # nothing can be noted, nor applied
            raise reason from None
        except Unavailable as error:
            raise OutcomeUnknown(
                f"{reason.message}; but whether an earlier try of this request is still under way is not known, as "
                f"etcd does not answer ({error.message}): ask again with the same request id"
            ) from reason
        if stands.change == ticket.digest and stands.HasField("refusal"):
            raise reason
        return _outcome(request, stands, ticket.digest)


def _digest(change: Change) -> bytes:
    """Return what tells the change of a request from another one: what is asked, not of which thing of that id."""
    asked = Change(kind=change.kind, id=change.id, verb=change.verb)
    return hashlib.sha256(asked.SerializeToString(deterministic=True)).digest()


def _outcome(request: RequestId, stands: RequestRecord, digest: bytes) -> int:
    if stands.change and stands.change != digest:
        raise _of_another(request)
    if stands.running:
        raise _at_work(request)
    if stands.HasField("refusal"):
        raise error_of(stands.refusal.code, stands.refusal.text)
    return stands.id


def _at_work(request: RequestId) -> Unavailable:
    return Unavailable(f"request {request.id} has begun, and is still at work: ask again in a moment")


def _of_another(request: RequestId) -> BadInput:
    return BadInput(f"request id {request.id} was used for another change: take a new one for each change")
