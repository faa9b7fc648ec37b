"""Jobs: they end whatever happens, and whoever watches learns how."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from fedmarket.errors import FedmarketError, Refused
from tests.support.agent import AgentZone
from tests.support.waiting import eventually
from zone_agent.jobs import Job, JobKind, JobState

BOUND = 5.0


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncGenerator[AgentZone, None]:
    async with AgentZone(tmp_path) as made:
        yield made


async def forever(job: Job) -> None:
    job.begin("waiting", 0)
    await asyncio.Event().wait()


async def started(zone: AgentZone, job: Job, told: "Told") -> None:
    """Start a job and wait until it is at work."""
    await zone.jobs.start(job, forever, told)
    await eventually(lambda: job.phase == "waiting")


class Told:
    """Notes what a job says of its failure; may be slow, or fail itself."""

    def __init__(self, *, held: bool = False, raises: Exception | None = None) -> None:
        self.reasons: list[FedmarketError] = []
        self.entered = asyncio.Event()
        self.proceed = asyncio.Event()
        self._raises = raises
        if not held:
            self.proceed.set()

    async def __call__(self, error: FedmarketError) -> None:
        self.entered.set()
        await self.proceed.wait()
        self.reasons.append(error)
        if self._raises is not None:
            raise self._raises


async def test_a_job_that_fails_says_why_and_its_fence_is_free_again(zone: AgentZone) -> None:
    async def work(job: Job) -> None:
        raise Refused("no")

    told, job = Told(), Job(JobKind.EXPORT, 1)
    await zone.jobs.start(job, work, told)
    states = [state.state async for state in zone.jobs.watch(job.id)]

    assert (states[-1], job.error, [e.message for e in told.reasons]) == (JobState.FAILED, "no", ["no"])
    assert job.task is not None
    await job.task
    assert await zone.duties.all() == frozenset()


async def test_a_fault_of_ours_ends_its_job_only(zone: AgentZone) -> None:
    async def broken(job: Job) -> None:
        raise ZeroDivisionError

    other, job = Job(JobKind.EXPORT, 1), Job(JobKind.EXPORT, 2)
    await zone.jobs.start(other, forever, Told())
    await zone.jobs.start(job, broken, Told())
    async for _ in zone.jobs.watch(job.id):
        pass

    assert "ZeroDivision" not in job.error
    assert (job.state, other.state) == (JobState.FAILED, JobState.RUNNING)


async def test_a_fault_while_a_failure_is_recorded_ends_its_job_only(zone: AgentZone) -> None:
    async def work(job: Job) -> None:
        raise Refused("no")

    other, job = Job(JobKind.EXPORT, 1), Job(JobKind.EXPORT, 2)
    await zone.jobs.start(other, forever, Told())
    await zone.jobs.start(job, work, Told(raises=KeyError("ours")))
    async with asyncio.timeout(BOUND):
        async for _ in zone.jobs.watch(job.id):
            pass

    assert (job.state, other.state) == (JobState.FAILED, JobState.RUNNING)


async def test_whoever_watches_sees_the_end_even_if_it_came_while_he_was_busy(zone: AgentZone) -> None:
    job = Job(JobKind.EXPORT, 1)
    await started(zone, job, Told())
    seen = []
    async for state in zone.jobs.watch(job.id):
        seen.append(state.state)
        if len(seen) == 1:
            await zone.jobs.cancel(job.fence)

    assert seen == [JobState.RUNNING, JobState.FAILED]


async def test_cancelling_a_job_twice_ends_it_once(zone: AgentZone) -> None:
    told, job = Told(held=True), Job(JobKind.CREATE, 1)
    await started(zone, job, told)
    async with asyncio.timeout(BOUND), asyncio.TaskGroup() as tasks:
        tasks.create_task(zone.jobs.cancel(job.fence))
        await told.entered.wait()
        tasks.create_task(zone.jobs.cancel(job.fence))
        await asyncio.sleep(0)
        told.proceed.set()

    assert (job.state, len(told.reasons)) == (JobState.FAILED, 1)


async def test_a_job_that_is_cancelled_before_its_first_step_ends(zone: AgentZone) -> None:
    told, job = Told(), Job(JobKind.CREATE, 1)
    await zone.jobs.start(job, forever, told)
    async with asyncio.timeout(BOUND):
        await zone.jobs.cancel(job.fence)

    assert (job.state, len(told.reasons)) == (JobState.FAILED, 1)


async def test_jobs_are_told_when_the_agent_stops(tmp_path: Path) -> None:
    told, job = Told(), Job(JobKind.EXPORT, 1)
    async with AgentZone(tmp_path) as zone:
        await started(zone, job, told)

    assert (job.state, len(told.reasons)) == (JobState.FAILED, 1)


async def test_no_job_starts_before_the_agent_is_ready(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="try again"):
        await AgentZone(tmp_path).jobs.start(Job(JobKind.EXPORT, 1), forever, Told())
