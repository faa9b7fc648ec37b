"""Jobs as users see them: of every agent of the zone, and of the past."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fedmarket.errors import BadInput, Refused, Unavailable
from fedmarket.pb.fedmarket.v1.job_pb2 import JobKind, JobRecord, JobState
from fedmarket.threads import uninterrupted
from zone_agent.jobs import Job, JobBook, Jobs, Stored
from zone_agent.jobs.book import newest_first


@dataclass(frozen=True, slots=True)
class JobServiceSettings:
    """How jobs are watched and kept."""

    watch_seconds: float = 0.2
    """Between two looks at a job of this agent that is watched."""
    poll_seconds: float = 1.0
    """The same, where another agent runs it."""
    keep_days: float = 30.0
    """Ended jobs are kept for so long."""
    keep: int = 1000
    """No more ended jobs are kept than that."""


class JobService:
    """The use cases of jobs that are there already."""

    def __init__(self, jobs: Jobs, book: JobBook, settings: JobServiceSettings) -> None:
        self._jobs = jobs
        self._book = book
        self._settings = settings

    async def list(
        self,
        after: str,
        limit: int,
        states: Collection[JobState.ValueType] = (),
        kinds: Collection[JobKind.ValueType] = (),
    ) -> tuple[Sequence[Stored], str]:
        """Return a page, the newest first, and what to give as `after` for the next one; empty: that was all."""
        last = _place(after)
        found = [
            shown
            for shown in map(self._shown, await self._book.all())
            if (not states or shown.record.state in states)
            and (not kinds or shown.record.kind in kinds)
            and (last is None or newest_first(shown) > last)
        ]
        page = found[:limit]
        more = len(found) > len(page)
        return page, f"{page[-1].record.started_ms}-{page[-1].id}" if page and more else ""

    async def show(self, job_id: str) -> Stored:
        """Return one job. Raises NotFound."""
        here = self._jobs.here(job_id)
        return _snapshot(here) if here is not None else await self._book.get(job_id)

    async def watch(self, job_id: str) -> AsyncGenerator[Stored, None]:
        """Yield a job now, whenever it may have moved, and once more at its end. Raises NotFound."""
        while True:
            here = self._jobs.here(job_id)
            if here is None:
                shown = await self._book.get(job_id)
                yield shown
            else:
                async for shown in self._watch_here(here):
                    yield shown
            if shown.ended:
                return
            if not self._jobs.open:
                raise Unavailable("the agent is stopping, and the job goes on when it is back: watch it again then")
            await asyncio.sleep(self._settings.poll_seconds)

    async def _watch_here(self, job: Job) -> AsyncGenerator[Stored, None]:
        """Yield a job that this agent runs, until it does so no more."""
        while not job.left:
            yield _snapshot(job)
            if not job.left:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.watch_seconds):
                        await job.pulse.wait()
        yield _snapshot(job)

    @uninterrupted
    async def cancel(self, job_id: str) -> Stored:
        """Stop a job, whichever agent runs it, and return it; it may still be stopping. Raises NotFound, Refused."""
        here = self._jobs.here(job_id)
        if here is None:
            return await self._jobs.cancel_elsewhere(job_id)
        await self._jobs.cancel(here)
        return _snapshot(here)

    @uninterrupted
    async def retry(self, job_id: str) -> Stored:
        """Run a job that failed or was cancelled again. Raises NotFound, and Refused where that cannot be."""
        here = self._jobs.here(job_id)
        if here is not None and here.ending:
            await self._jobs.left(here)
        elif here is not None:
            raise Refused(f"job {job_id} has not ended: watch it with `fedmarket job watch {job_id}`")
        return await self._jobs.retry(job_id)

    async def expire(self, now: float) -> int:
        """Forget what is older than is to be kept, at a time in Unix seconds; return how many jobs."""
        return await self._book.expire(now, self._settings.keep_days, self._settings.keep)

    def _shown(self, stored: Stored) -> Stored:
        here = self._jobs.here(stored.id)
        return stored if here is None else _snapshot(here)


def _snapshot(job: Job) -> Stored:
    record = JobRecord()
    record.CopyFrom(job.record)
    return Stored(job.id, record, job.revision)


def _place(after: str) -> tuple[int, str] | None:
    """Return where a page begins. Raises BadInput."""
    if not after:
        return None
    started, _, job_id = after.partition("-")
    try:
        return -int(started), job_id
    except ValueError:
        raise BadInput(f"{after[:40]!r} is no place in the list of jobs: give the `next` of the page before") from None
