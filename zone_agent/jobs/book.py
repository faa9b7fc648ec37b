"""The records of jobs in the zone's etcd: plain keys `zone/<me>/job/<id>`, each written only over what was read."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from federation.keys import Keyspace
from federation.store import KeyValue, Store, Txn
from fedmarket.errors import NotFound, Refused
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_STATE_RUNNING, JobRecord, JobState
from zone_agent.jobs.job import OPEN, Job

DELETES_AT_ONCE = 100
"""Of one transaction, below etcd's limit of 128 operations."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A job as its record says."""

    id: str
    record: JobRecord
    revision: int

    @property
    def ended(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.record.state not in OPEN


class JobBook:
    """All jobs of the zone, of whichever agent, and those of the past."""

    def __init__(self, store: Store, keyspace: Keyspace, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._keyspace = keyspace
        self._clock = clock

    def now_ms(self) -> int:
        """Return the time as records carry it."""
        return int(self._clock() * 1000)

    async def get(self, job_id: str) -> Stored:
        """Return a job. Raises NotFound."""
        stored = await self._store.get(self._keyspace.job(job_id)) if job_id.isalnum() else None
        if stored is None:
            raise NotFound(f"there is no job {job_id[:40]!r}: look at `fedmarket job list --all`")
        return self._read(stored)

    async def all(self) -> list[Stored]:
        """Return every job, the newest first."""
        snapshot = await self._store.snapshot(self._keyspace.job(""))
        return sorted(map(self._read, snapshot.items), key=newest_first)

    async def put(self, job: Job) -> Stored | None:
        """Write a job's record if it is still the one that was seen; else return what is there now.

        One that has vanished, because etcd was put back, is written anew.
        """
        key = self._keyspace.job(job.id)
        while True:
            value = job.record.SerializeToString()
            result = await self._store.txn(Txn({key: job.revision}, puts={key: value}, read_on_failure=key))
            if result.succeeded:
                job.revision = result.revision
                return None
            if result.current is not None:
                return self._read(result.current)
            job.revision = 0

    async def mark_cancelled(self, job_id: str) -> Stored:
        """Ask whoever runs a job to stop it. Raises NotFound, Refused if it has ended."""
        key = self._keyspace.job(job_id)
        while True:
            stored = await self.get(job_id)
            if stored.ended:
                word = JobState.Name(stored.record.state).removeprefix("JOB_STATE_")
                raise Refused(f"job {job_id} has ended already, it is {word}: there is nothing to cancel")
            stored.record.cancel = True
            result = await self._store.txn(Txn({key: stored.revision}, puts={key: stored.record.SerializeToString()}))
            if result.succeeded:
                return Stored(job_id, stored.record, result.revision)

    async def expire(self, now: float, keep_days: float, keep: int) -> int:
        """Forget ended jobs that ended longer ago than that, and the oldest beyond so many; return how many."""
        ended = [stored for stored in await self.all() if stored.ended]
        ended.sort(key=lambda stored: stored.record.ended_ms, reverse=True)
        oldest_ms = (now - keep_days * 86400) * 1000
        old = [stored for at, stored in enumerate(ended) if at >= keep or stored.record.ended_ms < oldest_ms]
        forgotten = 0
        for begin in range(0, len(old), DELETES_AT_ONCE):
            keys = {self._keyspace.job(one.id): one.revision for one in old[begin : begin + DELETES_AT_ONCE]}
            # One that is asked for again at this moment is kept, and the rest of its page until the next time.
            result = await self._store.txn(Txn(keys, deletes=list(keys)))
            forgotten += len(keys) if result.succeeded else 0
        return forgotten

    def _read(self, stored: KeyValue) -> Stored:
        job_id = stored.key.removeprefix(self._keyspace.job(""))
        try:
            return Stored(job_id, JobRecord.FromString(stored.value), stored.mod_revision)
        except DecodeError:
            # Shown as a job that has ended in no state: nobody runs it, and it expires first.
            return Stored(job_id, JobRecord(), stored.mod_revision)


def newest_first(stored: Stored) -> tuple[int, str]:
    """Return what jobs are sorted by."""
    return -stored.record.started_ms, stored.id


def as_left(stored: Stored) -> Job:
    """Return a job that its agent has left in the middle, or has put back."""
    job = Job(stored.id, stored.record, stored.revision)
    if job.state == JOB_STATE_RUNNING and not job.record.HasField("error"):
        job.record.deaths += 1
    return job
