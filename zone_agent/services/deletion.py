"""The work of deleting an app or an image: mark it, remove its bytes, drop its record. Each step can be done again."""

from typing import Generic, Protocol, TypeVar

from google.protobuf.message import Message

from federation.draft import Draft
from federation.records import check_changeable, kind_of
from federation.requests import RequestId, Requests, Ticket, refusal_of
from federation.view import Found
from fedmarket.errors import FedmarketError, NotFound, error_of
from fedmarket.failpoints import Failpoint, hit
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_KIND_DELETE
from zone_agent.jobs import Job, Jobs, job_for, thing
from zone_agent.services.catalogs import Catalogs, require
from zone_agent.services.principal import Principal

M = TypeVar("M", bound=Message)
M_contra = TypeVar("M_contra", bound=Message, contravariant=True)


class Subject(Protocol[M_contra]):
    """What of a delete depends on the kind of thing."""

    def mark(self, message: M_contra) -> None:
        """Mark it as being deleted. Raises Refused if it cannot be now. May be done again."""
        ...

    def blame(self, message: M_contra, error: FedmarketError) -> None:
        """Say in a record that was marked why it could not be deleted."""
        ...

    async def remove(self, message: M_contra) -> None:
        """Remove its bytes. Raises what the store raises if they may still be there."""
        ...


class Deletion(Generic[M]):
    """Does the jobs that delete things of one kind: see `zone_agent.jobs.Work`."""

    def __init__(
        self, catalogs: Catalogs, jobs: Jobs, message: type[M], subject: Subject[M], requests: Requests
    ) -> None:
        self._catalogs = catalogs
        self._jobs = jobs
        self._message = message
        self._subject = subject
        self._requests = requests
        self._kind = kind_of(message)
        jobs.serve(JOB_KIND_DELETE, self._kind, self)

    async def delete(self, principal: Principal, found: Found[M], ticket: Ticket | None) -> int:
        """Delete a thing of this zone, wait until it is gone, and return its id. Raises why it could not be deleted.

        A job that makes it is cancelled first.
        """
        await self._jobs.clear_the_way(f"{self._kind}-{found.id}")
        current = self._catalogs.view.get(self._message, found.id)
        if current is None:
            raise NotFound(f"{self._kind} {found.id} was deleted meanwhile: look at the list")
        check_changeable(current.record)  # what cannot be marked is refused before there is a job
        self._subject.mark(_copy(current.message))
        record = job_for(JOB_KIND_DELETE, thing(found), principal)
        if ticket is not None:
            record.request_zone, record.request_id = ticket.request.zone, ticket.request.id
            record.request_change = ticket.digest
        await self._jobs.ended(await self._jobs.start(record))
        return found.id

    def check_retry(self, job: Job) -> None:
        """Raise NotFound if it is gone. What asked for it was refused, and has nothing to do with the new try."""
        if self._find(job) is None:
            raise _gone(job)
        job.record.ClearField("request_id")

    async def resume(self, job: Job) -> bool:
        """Go on, unless it is gone."""
        return self._find(job) is not None

    async def run(self, job: Job) -> None:
        """Mark it, remove its bytes, drop its record."""
        found = self._find(job)
        if found is None:
            raise _gone(job)
        job.begin("removing", 0)
        ticket, begun = await self._ticket(job)

        def mark(draft: Draft) -> M:
            record = draft.get(self._message, found.id)
            if record is None:
                raise _gone(job)
            self._subject.mark(record.message)
            draft.put(found.id, record)
            if ticket is not None and not begun:
                ticket.begun(draft, found.id)
            return record.message

        marked = await self._catalogs.change(mark, private=found.private)
        hit(Failpoint.DELETE_MARKED)
        await self._subject.remove(marked)
        hit(Failpoint.DELETE_REMOVED)

        def drop(draft: Draft) -> None:
            require(draft, self._message, found.id, f"the {self._kind}")
            draft.delete(self._message, found.id)
            if ticket is not None:
                ticket.ended(draft, found.id)

        await self._catalogs.change(drop, private=found.private)
        hit(Failpoint.DELETE_DROPPED)

    async def fail(self, job: Job, error: FedmarketError) -> None:
        """Say in the record why it is still there, if it was marked."""
        found = self._find(job)
        if found is None:
            return
        ticket = await self._running(job)

        def blame(draft: Draft) -> None:
            record = draft.get(self._message, found.id)
            if record is not None:
                self._subject.blame(record.message, error)
                draft.put(found.id, record)
                if ticket is not None:
                    ticket.refused(draft, refusal_of(error))

        await self._catalogs.change(blame, private=found.private)

    async def _ticket(self, job: Job) -> tuple[Ticket | None, bool]:
        """Return what notes the job's request, and whether it is noted as begun already, by an agent that died since.

        Raises what the request was refused with, if somebody settled it before the job was taken up again.
        """
        if not job.record.request_id:
            return None, False
        ticket = self._ticket_of(job)
        noted = await self._requests.find(ticket.request)
        if noted is not None and noted[0].HasField("refusal"):
            raise error_of(noted[0].refusal.code, noted[0].refusal.text)
        return ticket, noted is not None and noted[0].running

    async def _running(self, job: Job) -> Ticket | None:
        """Return what notes the job's request, if that has begun."""
        if not job.record.request_id:
            return None
        ticket = self._ticket_of(job)
        noted = await self._requests.find(ticket.request)
        return ticket if noted is not None and noted[0].running else None

    def _ticket_of(self, job: Job) -> Ticket:
        request = RequestId(job.record.request_zone, job.record.request_id)
        return self._requests.ticket(request, job.record.request_change)

    def _find(self, job: Job) -> Found[M] | None:
        found = self._catalogs.view.get(self._message, job.object_id)
        return found if found is not None and found.record.uid == job.record.object.uid else None


def _copy(message: M) -> M:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _gone(job: Job) -> NotFound:
    of = job.record.object
    return NotFound(f"{of.kind} {of.id} was deleted meanwhile: look at the list")
