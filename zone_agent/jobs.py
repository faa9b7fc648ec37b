"""Jobs: long operations that a user can watch.

What a job makes is marked LOCKED in the catalog. While the job runs, its agent holds a key under its etcd lease that
says so: a LOCKED record without such a key was left by an agent that died, and is cleared by the next one.
"""

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

from federation.pulse import Pulse
from fedmarket.errors import Cancelled, FedmarketError, Internal, NotFound, Refused
from fedmarket.threads import to_the_end
from zone_agent.duties import Duties

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Jobs that run at a time; more wait. Each keeps a disk, a link and a thread or two busy."""
KEPT = 1000
"""Ended jobs that are remembered, so that whoever watches late still learns how they ended."""


class JobKind(Enum):
    """What a job does."""

    CREATE = "create"
    EXPORT = "export"
    IMPORT = "import"


class JobState(Enum):
    """How far it is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(slots=True)
class Job:
    """One operation. `progress` is called from any thread; everything else from the event loop."""

    kind: JobKind
    object_id: int
    """The app or image that it makes."""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: JobState = JobState.RUNNING
    phase: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    error: str = ""
    started: float = field(default_factory=time.time)
    """Unix seconds."""
    ended: float = 0.0
    """Unix seconds; 0: still running."""
    cancelled: bool = False
    """Asked to stop; work in threads looks at it between blocks."""
    pulse: Pulse = field(default_factory=Pulse)
    task: asyncio.Task[None] | None = None

    @property
    def fence(self) -> str:
        """The name under which its agent says that it runs, and which its staging carries."""
        return fence_of(self.kind, self.object_id)

    def begin(self, phase: str, total_bytes: int) -> None:
        """Enter a phase."""
        self.phase, self.done_bytes, self.total_bytes = phase, 0, total_bytes
        self.pulse.fire()

    def progress(self, done_bytes: int) -> None:
        """Count the bytes of this phase. Watchers look at their own pace."""
        self.done_bytes = done_bytes

    def is_cancelled(self) -> bool:
        """Say whether it was asked to stop."""
        return self.cancelled


Work = Callable[[Job], Awaitable[None]]
Failed = Callable[[FedmarketError], Awaitable[None]]


def fence_of(kind: JobKind, object_id: int) -> str:
    """Return the fence of the job that makes an object."""
    return f"{'app' if kind is JobKind.CREATE else 'image'}-{object_id}"


class Jobs:
    """The jobs of this agent. `run` must be running."""

    def __init__(self, duties: Duties, at_once: int = AT_ONCE, watch_seconds: float = 0.2) -> None:
        self._duties = duties
        self._places = asyncio.Semaphore(at_once)
        self._watch_seconds = watch_seconds
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Hold the jobs' tasks, for ever; at the end, cancel them and wait for them."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await asyncio.get_running_loop().create_future()
        finally:
            self._tasks = None

    async def start(self, job: Job, work: Work, failed: Failed) -> None:
        """Run a job in the background; if it fails, or is cancelled, `failed` is told why before it ends.

        Raises Refused while the agent is not ready, or is stopping.
        """
        tasks = self._tasks
        if tasks is None:
            raise Refused("the agent is starting or stopping: try again in a moment")
        await self.enter(job)
        job.task = tasks.create_task(self._run(job, work, failed))
        # Cancelled before its first step, it would never run, nor say that it has ended.
        await asyncio.sleep(0)

    async def enter(self, job: Job) -> None:
        """Make a job known that is run by the caller, who must call `leave`."""
        await self._duties.claim(job.fence)
        self._jobs[job.id] = job
        ended = [j for j in self._jobs.values() if j.state is not JobState.RUNNING]
        for old in ended[: max(0, len(ended) - KEPT)]:
            del self._jobs[old.id]

    def running(self, fence: str) -> Job | None:
        """Return the job of this agent that runs under `fence`."""
        return next((j for j in self._jobs.values() if j.fence == fence and j.state is JobState.RUNNING), None)

    async def cancel(self, fence: str) -> None:
        """Stop the job that runs under `fence` here, if there is one, and wait until it has ended."""
        job = self.running(fence)
        if job is None or job.task is None:
            return
        if not job.cancelled:
            job.cancelled = True
            job.task.cancel()
        while job.state is JobState.RUNNING:
            await job.pulse.wait()

    def get(self, job_id: str) -> Job:
        """Return a job. Raises NotFound."""
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound(f"this agent knows of no job {job_id[:40]!r}: look at the app or image that it was to make")
        return job

    async def watch(self, job_id: str) -> AsyncGenerator[Job, None]:
        """Yield a job now, whenever it may have moved, and once more at its end."""
        job = self.get(job_id)
        while True:
            last = job.state is not JobState.RUNNING
            yield job
            if last:
                return
            if job.state is not JobState.RUNNING:
                continue
            try:
                async with asyncio.timeout(self._watch_seconds):
                    await job.pulse.wait()
            except TimeoutError:
                continue

    async def _run(self, job: Job, work: Work, failed: Failed) -> None:
        error: FedmarketError | None = None
        if self._places.locked():
            job.begin("waiting", 0)
        try:
            async with self._places:
                await work(job)
        except FedmarketError as reason:
            error = reason
        except asyncio.CancelledError:
            job.cancelled = True
            error = Cancelled("the job was cancelled: start it again if it is still wanted")
        except Exception:  # the supervisor of one job: the others go on
            log.exception("job %s failed", job.id)
            error = Internal("the job failed for a reason that is in the agent's log: report it")
        await to_the_end(self._finish(job, failed, error))

    async def _finish(self, job: Job, failed: Failed, error: FedmarketError | None) -> None:
        if error is not None:
            await self._tell(job, failed, error)
        await self.leave(job, error)

    async def _tell(self, job: Job, failed: Failed, error: FedmarketError) -> None:
        log.warning("job %s (%s %s): %s", job.id, job.kind.value, job.object_id, error.message)
        try:
            await failed(error)
        except FedmarketError as also:
            log.warning("job %s: its end could not be recorded now: %s", job.id, also.message)
        except Exception:  # the supervisor of one job: the others go on
            log.exception("job %s: its end could not be recorded", job.id)

    async def leave(self, job: Job, error: FedmarketError | None) -> None:
        """Say that a job that was entered has ended."""
        job.state = JobState.FAILED if error else JobState.DONE
        job.error = error.message if error else ""
        if error is None:
            job.done_bytes = job.total_bytes
        job.ended = time.time()
        job.pulse.fire()
        await self._duties.release(job.fence)
