"""One job: what it is to do and how far it is, as its record says, and what of it this agent alone knows."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from federation.pulse import Pulse
from federation.records import kind_of
from federation.view import Found
from fedmarket.errors import FedmarketError, Refused
from fedmarket.pb.fedmarket.v1.job_pb2 import (
    JOB_KIND_DELETE,
    JOB_KIND_DOWNLOAD,
    JOB_KIND_IMPORT,
    JOB_STATE_CANCELLED,
    JOB_STATE_DONE,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JobKind,
    JobObject,
    JobRecord,
    JobState,
)
from zone_agent.services.principal import Principal

M = TypeVar("M", bound=Message)

OPEN = frozenset({JOB_STATE_QUEUED, JOB_STATE_RUNNING})
"""The states of a job that has not ended."""


@dataclass(slots=True, eq=False)
class Job:
    """A job that this agent runs. `progress` is called from any thread, the rest from the loop."""

    id: str
    record: JobRecord
    revision: int = 0
    """Of the record in the store, as it was last read or written; 0: not yet."""
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    pulse: Pulse = field(default_factory=Pulse)
    """Fires when a phase begins, and when the job ends here."""
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    """What it makes is LOCKED, or it has ended."""
    abort: Callable[[], object] | None = None
    """Breaks its work off."""
    cancelled: bool = False
    """Somebody asked that it ends; else an end in the middle means that another agent, or this one later, goes on."""
    taken_over: bool = False
    """Another agent runs it: nothing of it is ours to write any more."""
    ending: bool = False
    """All that is left is to record how it ended."""
    left: bool = False
    """It is not run here any more: it has ended, or waits for an agent."""
    given: object = None
    """What its work was given beside the record: it does not outlive this agent."""
    failure: FedmarketError | None = None
    """Why it failed."""

    @property
    def kind(self) -> JobKind.ValueType:
        """What it does."""
        return self.record.kind

    @property
    def state(self) -> JobState.ValueType:
        """How far it is."""
        return self.record.state

    @property
    def object_id(self) -> int:
        """The app or image that it makes, deletes or downloads."""
        return self.record.object.id

    @property
    def fence(self) -> str:
        """The duty that its agent holds: one job at a time makes or deletes a thing."""
        return fence_of(self.id, self.record)

    @property
    def staging(self) -> str:
        """What its files in staging bear: each attempt has its own, also where two agents think that they run it."""
        return f"{self.fence}-{self.record.attempts}"

    def begin(self, phase: str, total_bytes: int) -> None:
        """Enter a phase."""
        self.record.phase, self.record.done_bytes, self.record.total_bytes = phase, 0, total_bytes
        self.pulse.fire()

    def progress(self, done_bytes: int) -> None:
        """Count the bytes of this phase. Watchers look at their own pace."""
        self.record.done_bytes = done_bytes


class Work(Protocol):
    """What does the jobs of a kind. Every step can be done again after an agent died behind it."""

    def check_retry(self, job: Job) -> None:
        """Raise Refused or NotFound if a job that failed cannot be run again."""
        ...

    async def resume(self, job: Job) -> bool:
        """Remove what an earlier attempt left and make `run` possible again; False: there is nothing left to do."""
        ...

    async def run(self, job: Job) -> None:
        """Do it."""
        ...

    async def fail(self, job: Job, error: FedmarketError) -> None:
        """Leave what it was to make in ERROR, with the reason, and nothing half done. May be called again."""
        ...


def job_for(
    kind: JobKind.ValueType, of: JobObject, principal: Principal, *, source: JobObject | None = None, store_id: int = 0
) -> JobRecord:
    """Return the record of a new job."""
    return JobRecord(kind=kind, object=of, source=source, store_id=store_id, principal=principal.owner())


def thing(found: Found[M]) -> JobObject:
    """Return how a job names a record."""
    name = getattr(found.message, "name", "")
    return JobObject(kind=kind_of(type(found.message)), id=found.id, uid=found.record.uid, name=name)


def fence_of(job_id: str, record: JobRecord) -> str:
    """Return the duty that a job's agent holds."""
    if record.kind == JOB_KIND_DOWNLOAD:
        return f"download-{job_id}"
    return f"{record.object.kind}-{record.object.id}"


def belongs(staged: str, fence: str) -> bool:
    """Say whether what was staged under a name is of the job that holds a fence."""
    return staged == fence or staged.startswith(f"{fence}-")


def waits_its_turn(record: JobRecord) -> bool:
    """Say whether a job is one of those of which only so many run at a time: a client waits for the others."""
    return record.kind not in {JOB_KIND_DELETE, JOB_KIND_IMPORT}


def called(record: JobRecord) -> str:
    """Return what a job does, as messages name it."""
    return f"{JobKind.Name(record.kind).removeprefix('JOB_KIND_').lower()} of {record.object.kind} {record.object.id}"


def end_state(job: Job, error: FedmarketError | None) -> JobState.ValueType:
    """Return how a job ends that failed with `error`, if with any."""
    if error is None:
        return JOB_STATE_DONE
    return JOB_STATE_CANCELLED if job.record.cancel else JOB_STATE_FAILED


def busy(job_id: str, record: JobRecord) -> Refused:
    """Return the refusal of a second job of the same thing."""
    return Refused(f"the {called(record)} is at work (job {job_id}): wait until it has ended")
