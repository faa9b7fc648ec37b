"""Running jobs: each is written down before it begins, and ended, or begun again, by whichever agent lives.

Whoever holds a job's fence runs it. Its record is written only over what was read: an agent that was taken for dead
finds another one's name in it, and stops.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import nullcontext, suppress

from fedmarket.errors import Cancelled, FedmarketError, Internal, Refused, Unavailable, cause_of, error_of
from fedmarket.failpoints import Failpoint, hit
from fedmarket.pb.fedmarket.v1.job_pb2 import (
    JOB_KIND_DELETE,
    JOB_KIND_IMPORT,
    JOB_STATE_DONE,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JobKind,
    JobRecord,
)
from fedmarket.pb.fedmarket.v1.record_pb2 import Failure
from fedmarket.threads import to_the_end
from zone_agent.duties import Duties
from zone_agent.jobs.book import JobBook, Stored, as_left
from zone_agent.jobs.job import OPEN, Job, Work, busy, called, end_state, fence_of, waits_its_turn
from zone_agent.jobs.settings import DEFAULTS, JobSettings
from zone_agent.telemetry import jobs as observed

log = logging.getLogger(__name__)

_NOT_TO_BE_CANCELLED = frozenset({JOB_KIND_DELETE, JOB_KIND_IMPORT})
"""By a delete of what they make or delete: the one is what is asked for already, the other has a client that waits."""
_STOPPING = "the agent is starting or stopping: try again in a moment"


class _TakenOver(Exception):
    """Another agent of the zone runs the job."""


class Jobs:
    """The jobs of this agent. `run` must be running."""

    def __init__(self, duties: Duties, book: JobBook, settings: JobSettings = DEFAULTS) -> None:
        self._duties = duties
        self._book = book
        self._settings = settings
        self._places = asyncio.Semaphore(settings.at_once)
        self._works: dict[tuple[JobKind.ValueType, str], Work] = {}
        self._jobs: dict[str, Job] = {}
        self._resumed: list[Job] = []
        """Wait for `run`."""
        self._tasks: asyncio.TaskGroup | None = None

    def serve(self, kind: JobKind.ValueType, of: str, work: Work) -> None:
        """Name what does the jobs of a kind for things of a kind: apps or images."""
        self._works[kind, of] = work

    async def run(self) -> None:
        """Hold the jobs' tasks, for ever; at the end, break them off and wait for them: they go on after a restart."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                while self._resumed:
                    self._spawn(self._resumed.pop(), again=True)
                await self._keep_written()
        finally:
            self._tasks = None
            for job in list(self._jobs.values()):
                if job.abort is None:  # cancelled before its first step, a task says nothing
                    self._leave_here(job)

    @property
    def open(self) -> bool:
        """Whether jobs can run: not while the agent starts or stops."""
        return self._tasks is not None

    async def start(self, record: JobRecord, given: object = None) -> Job:
        """Run a new job in the background. Raises Refused while the agent is not ready, or another job is at it."""
        if not self.open:
            raise Refused(_STOPPING)
        self.require_room()
        job = await self._write_down(record, None)
        job.given = given
        self._spawn(job, again=False)
        # Cancelled before its first step, it would never run, nor say that it has ended.
        await asyncio.sleep(0)
        return job

    async def enter(self, record: JobRecord, abort: Callable[[], object]) -> Job:
        """Make a job known that is run by the caller, who must call `leave`; `abort` breaks it off."""
        self.require_room()
        return await self._write_down(record, abort)

    async def leave(self, job: Job, error: FedmarketError | None) -> None:
        """End a job that was entered, of which nothing is left to undo."""
        await self._end(job, None, error)

    def require_room(self) -> None:
        """Raise Unavailable if too many jobs wait."""
        if len(self._jobs) >= self._settings.queue:
            raise Unavailable(
                f"{len(self._jobs)} jobs wait or run at this agent, which takes no more: try again when some have ended"
            )

    def require_free(self, fence: str) -> None:
        """Raise Refused if a job of this agent has the thing that it is to make or delete."""
        if other := self.running(fence):
            raise busy(other.id, other.record)

    def running(self, fence: str) -> Job | None:
        """Return the job of this agent that has `fence`."""
        return next((job for job in self._jobs.values() if job.fence == fence), None)

    def all_here(self) -> list[Job]:
        """Return the jobs of this agent that have not ended."""
        return list(self._jobs.values())

    def here(self, job_id: str) -> Job | None:
        """Return a job that this agent runs."""
        return self._jobs.get(job_id)

    async def left(self, job: Job) -> None:
        """Wait until a job is not run here any more."""
        while not job.left:
            await job.pulse.wait()

    async def ended(self, job: Job) -> None:
        """Wait until a job has ended, and raise what it failed with; Unavailable if the agent stops before."""
        await self.left(job)
        if job.failure is not None:
            raise job.failure
        if job.state in OPEN:
            raise Unavailable(
                f"the agent stopped in the middle of the {called(job.record)}: it goes on when it is back"
            )

    async def cancel(self, job: Job) -> None:
        """Stop a job of this agent, and wait until it has ended."""
        if not job.cancelled:
            job.cancelled = job.record.cancel = True
            self._break_off(job)
        await self.left(job)

    async def clear_the_way(self, fence: str) -> None:
        """Cancel the job that makes what is to be deleted, whichever agent runs it. Raises Refused if it goes on."""
        job = self.running(fence)
        if job is not None and job.ending:
            await self.left(job)
        elif job is not None and job.kind not in _NOT_TO_BE_CANCELLED:
            await self.cancel(job)
        elif job is None and await self._duties.is_held(fence):
            for stored in await self._book.all():
                if not stored.ended and fence_of(stored.id, stored.record) == fence:
                    if stored.record.kind in _NOT_TO_BE_CANCELLED:
                        raise busy(stored.id, stored.record)
                    await self.cancel_elsewhere(stored.id)

    async def cancel_elsewhere(self, job_id: str) -> Stored:
        """Ask whichever agent runs a job to stop it, and wait for its end for a while; return it as it is then.

        Raises NotFound, Refused if it has ended already.
        """
        stored = await self._book.mark_cancelled(job_id)
        await self.resume(stored)  # perhaps nobody runs it
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.cancel_seconds):
                while not stored.ended:
                    await asyncio.sleep(self._settings.poll_seconds)
                    stored = await self._book.get(job_id)
        return stored

    async def retry(self, job_id: str) -> Stored:
        """Run a job that failed or was cancelled again; when this returns, what it makes is LOCKED again.

        Raises NotFound, and Refused where that cannot be.
        """
        if not self.open:
            raise Refused(_STOPPING)
        stored = await self._book.get(job_id)
        work = self._check_retry(stored)
        job = Job(job_id, stored.record, stored.revision)
        work.check_retry(job)
        self.require_room()
        self.require_free(job.fence)
        await self._duties.claim(job.fence)
        job.record.ClearField("error")
        job.record.ClearField("code")
        job.record.ended_ms, job.record.cancel, job.record.deaths = 0, False, 0
        if not await self._take(job):
            raise Refused(f"job {job_id} was changed at this moment: look at it with `fedmarket job show {job_id}`")
        hit(Failpoint.JOB_REOPENED)
        self._spawn(job, again=True)
        await job.opened.wait()
        if job.left and job.failure is not None:
            raise job.failure
        return Stored(job.id, job.record, job.revision)

    async def resume_all(self) -> None:
        """Take up every job that has not ended and that no agent holds. Also before `run`, which then runs them."""
        for stored in await self._book.all():
            if not stored.ended:
                try:
                    await self.resume(stored)
                except FedmarketError as error:
                    log.warning("job %s could not be taken up, and is tried again: %s", stored.id, error.message)

    async def resume(self, stored: Stored) -> None:
        """Take up a job, unless an agent holds it."""
        fence = fence_of(stored.id, stored.record)
        if stored.id in self._jobs or self.running(fence) or not await self._duties.try_claim(fence):
            return None
        while not await self._take(job := as_left(stored)):
            # Whoever held the fence until now has written meanwhile, perhaps that it has ended.
            stored = await self._book.get(stored.id)
            if stored.ended or not await self._duties.try_claim(fence):
                return await self._duties.release(fence)
        log.info("job %s (%s) is taken up", job.id, called(job.record))
        self._spawn(job, again=True)
        return None

    # -- from here on, one job after the other

    async def _write_down(self, record: JobRecord, abort: Callable[[], object] | None) -> Job:
        waits = waits_its_turn(record) and self._places.locked()
        record.state = JOB_STATE_QUEUED if waits else JOB_STATE_RUNNING
        record.attempts, record.started_ms, record.agent = 1, self._book.now_ms(), self._duties.agent
        job = Job(secrets.token_hex(8), record, abort=abort)
        self.require_free(job.fence)
        self._jobs[job.id] = job
        try:
            await self._duties.claim(job.fence)
            hit(Failpoint.JOB_CLAIMED)
            await self._write(job)
        except BaseException:
            await self._forget(job)
            raise
        hit(Failpoint.JOB_WRITTEN)
        return job

    async def _take(self, job: Job) -> bool:
        """Write this agent's name into a record whose fence it holds; False: somebody else was faster."""
        job.record.attempts += 1
        job.record.agent, job.record.state = self._duties.agent, JOB_STATE_QUEUED
        self._jobs[job.id] = job
        try:
            taken = await self._book.put(job) is None
        except BaseException:
            await self._forget(job)
            raise
        if not taken:
            await self._forget(job)
        return taken

    def _spawn(self, job: Job, *, again: bool) -> None:
        if self._tasks is None:
            self._resumed.append(job)
            return
        self._tasks.create_task(self._run(job, again=again))

    async def _run(self, job: Job, *, again: bool) -> None:
        task = asyncio.current_task()
        job.abort = task.cancel if task else None
        work = self._works.get((job.kind, job.record.object.kind))
        error: FedmarketError | None = None
        try:
            if work is None:
                raise Refused("this version of fedmarket does not know what this job does: upgrade its agent")
            with observed.span_of(job.record, job.id):
                await self._work(job, work, again=again)
            hit(Failpoint.JOB_WORKED)
        except FedmarketError as reason:
            error = reason
        except _TakenOver:
            job.taken_over = True
        except asyncio.CancelledError:
            if not job.cancelled:
                return await to_the_end(self._put_back(job))
            error = Cancelled("the job was cancelled: retry it if it is still wanted")
        except Exception:  # the supervisor of one job: the others go on
            log.exception("job %s failed", job.id)
            error = Internal("the job failed for a reason that is in the agent's log: report it")
        return await to_the_end(self._end(job, work, error))

    async def _work(self, job: Job, work: Work, *, again: bool) -> None:
        if job.record.HasField("error"):
            raise error_of(job.record.code, job.record.error.text)  # it was judged, and that is to be carried out
        if job.record.cancel:
            raise Cancelled("the job was cancelled: retry it if it is still wanted")
        if job.record.deaths >= self._settings.deaths:
            raise Internal(
                f"{job.record.deaths} agents ended in the middle of this job, so that it is not begun again: look at "
                "the agent's log, then retry it"
            )
        if again:
            if not await work.resume(job):
                return
            hit(Failpoint.JOB_PREPARED)
        job.opened.set()
        job.pulse.fire()
        async with self._places if waits_its_turn(job.record) else nullcontext():
            if job.state == JOB_STATE_QUEUED:
                job.record.state = JOB_STATE_RUNNING
                await self._write(job)
            hit(Failpoint.JOB_BEGUN)
            await work.run(job)

    async def _end(self, job: Job, work: Work | None, error: FedmarketError | None) -> None:
        """Record how a job ended. If that cannot be done now, it is taken up again later, and ended then."""
        job.failure, job.ending = error, True
        try:
            if error is not None:
                await self._judge(job, work, error)
            if not job.taken_over:
                await self._seal(job, error)
                hit(Failpoint.JOB_ENDED)
        except FedmarketError as also:
            log.warning("job %s: its end could not be recorded now: %s", job.id, also.message)
        except _TakenOver:
            job.taken_over = True
        except Exception:  # the supervisor of one job: the others go on
            log.exception("job %s: its end could not be recorded", job.id)
        if not job.taken_over:
            job.record.state = end_state(job, error)
            observed.ended(job.record, self._book.now_ms())
        await self._forget(job)

    async def _judge(self, job: Job, work: Work | None, error: FedmarketError) -> None:
        log.warning("job %s (%s): %s", job.id, called(job.record), error.message)
        job.record.error.CopyFrom(Failure(text=error.message, time=self._book.now_ms() // 1000))
        job.record.code = cause_of(error).code
        await self._write(job)
        hit(Failpoint.JOB_JUDGED)
        if work is not None:
            await work.fail(job, error)
        hit(Failpoint.JOB_UNDONE)

    async def _seal(self, job: Job, error: FedmarketError | None) -> None:
        record = job.record
        async with job.writing:
            record.state, record.ended_ms = end_state(job, error), self._book.now_ms()
            if error is None:
                record.done_bytes = record.total_bytes
        await self._write(job)

    async def _put_back(self, job: Job) -> None:
        """Leave a job to whichever agent is there next: this one stops."""
        try:
            if not job.taken_over:
                job.record.state = JOB_STATE_QUEUED
                await self._write(job)
        except (FedmarketError, _TakenOver) as error:
            log.warning(
                "job %s could not be put back, and is found when this agent's lease has ended: %s", job.id, error
            )
        await self._forget(job)

    async def _forget(self, job: Job) -> None:
        self._leave_here(job)
        await self._duties.release(job.fence)

    def _leave_here(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        job.left = True
        job.opened.set()
        job.pulse.fire()

    async def _write(self, job: Job) -> None:
        """Write a job's record. Raises _TakenOver, Unavailable."""
        async with job.writing:
            while (other := await self._book.put(job)) is not None:
                if other.record.agent != self._duties.agent or (other.ended and job.state in OPEN):
                    raise _TakenOver
                job.record.cancel |= other.record.cancel
                job.revision = other.revision

    async def _keep_written(self) -> None:
        """Write the progress of jobs now and then, and do what was asked of them at other agents."""
        while True:
            await asyncio.sleep(self._settings.write_seconds)
            for job in list(self._jobs.values()):
                try:
                    await self._look_after(job)
                except FedmarketError as error:
                    log.warning("the progress of job %s could not be written: %s", job.id, error.message)

    async def _look_after(self, job: Job) -> None:
        if job.revision == 0 or job.left:
            return
        try:
            await self._write(job)
        except _TakenOver:
            job.taken_over = True
            self._break_off(job)
            return
        if job.record.cancel and not job.cancelled:
            job.cancelled = True
            self._break_off(job)

    def _break_off(self, job: Job) -> None:
        if job.abort is not None:
            job.abort()

    def _check_retry(self, stored: Stored) -> Work:
        if not stored.ended:
            raise Refused(f"job {stored.id} has not ended: watch it with `fedmarket job watch {stored.id}`")
        if stored.record.state == JOB_STATE_DONE:
            raise Refused(f"job {stored.id} is done: there is nothing to repeat")
        work = self._works.get((stored.record.kind, stored.record.object.kind))
        if work is None:
            raise Refused(f"job {stored.id} is of a kind that this version does not know: upgrade its agent")
        return work
