"""Jobs: each is written down, ends whatever happens, goes on after its agent died, and tells whoever watches."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from itertools import count
from pathlib import Path

import pytest

from federation.memory import MemoryStore, Moment
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import BadInput, FedmarketError, NotFound, Refused, Unavailable
from fedmarket.pb.fedmarket.v1.job_pb2 import (
    JOB_KIND_CLONE,
    JOB_KIND_CREATE,
    JOB_KIND_EXPORT,
    JOB_STATE_CANCELLED,
    JOB_STATE_DONE,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JobObject,
    JobRecord,
    JobState,
)
from tests.support.agent import AgentZone, touches
from tests.support.waiting import eventually
from zone_agent.jobs import Job, JobSettings, job_for

BOUND = 5.0
DAY = 86400.0


class Script:
    """Work that does what a test says, and notes what is asked of it."""

    def __init__(self, step: Callable[[Job], Awaitable[None]] | None = None) -> None:
        self.step = step or forever
        self.asked: list[str] = []
        self.failures: list[str] = []
        self.fails: Exception | None = None
        self.left_to_do = True
        self.may_retry = True

    def check_retry(self, job: Job) -> None:
        self.asked.append("check_retry")
        if not self.may_retry:
            raise Refused("it cannot be made again")

    async def resume(self, job: Job) -> bool:
        self.asked.append("resume")
        return self.left_to_do

    async def run(self, job: Job) -> None:
        self.asked.append("run")
        await self.step(job)

    async def fail(self, job: Job, error: FedmarketError) -> None:
        self.failures.append(error.message)
        if self.fails is not None:
            raise self.fails


async def forever(job: Job) -> None:
    job.begin("waiting", 7)
    await asyncio.Event().wait()


async def refuses(job: Job) -> None:
    raise Refused("no")


async def at_once(job: Job) -> None:
    job.begin("waiting", 7)


def use(zone: AgentZone, script: Script) -> Script:
    zone.jobs.serve(JOB_KIND_EXPORT, "image", script)
    return script


def export_of(zone: AgentZone, image: int = 1) -> JobRecord:
    return job_for(JOB_KIND_EXPORT, JobObject(kind="image", id=image, uid="u"), zone.admin)


async def start(zone: AgentZone, image: int = 1) -> Job:
    return await zone.jobs.start(export_of(zone, image))


async def at_work(zone: AgentZone, image: int = 1) -> Job:
    """Start a job and wait until it is at work."""
    job = await start(zone, image)
    await eventually(lambda: job.record.phase == "waiting")
    return job


async def ended(zone: AgentZone, job_id: str) -> JobRecord:
    """Watch a job to its end, and return its record as it is stored."""
    async with asyncio.timeout(BOUND):
        async for _ in zone.job_service.watch(job_id):
            pass
    return (await zone.book.get(job_id)).record


async def dies(zone: AgentZone) -> None:
    """End an agent as a kill does: nothing is written any more, and its leases end."""

    def away(txn: Txn, moment: Moment) -> None:
        raise StoreUnavailable("this agent is dead")

    zone.store.fault = away
    with suppress(FedmarketError, TimeoutError, BaseExceptionGroup):
        async with asyncio.timeout(BOUND):
            await zone.__aexit__()
    zone.store.fault = lambda txn, moment: None
    for lease in list(zone.store._leases):
        zone.store.expire(lease)


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncGenerator[AgentZone, None]:
    async with AgentZone(tmp_path) as made:
        yield made


@pytest.fixture
async def two(tmp_path: Path) -> AsyncGenerator[tuple[AgentZone, AgentZone], None]:
    store = MemoryStore()
    async with (
        AgentZone(tmp_path, store=store, agent="first") as first,
        AgentZone(tmp_path, store=store, agent="second") as second,
    ):
        yield first, second


async def test_a_job_that_fails_says_why_and_its_fence_is_free_again(zone: AgentZone) -> None:
    script = use(zone, Script(refuses))
    job = await start(zone)
    record = await ended(zone, job.id)

    assert (record.state, record.error.text, record.code) == (JOB_STATE_FAILED, "no", "refused")
    assert script.failures == ["no"]
    assert record.ended_ms >= record.started_ms > 0
    await eventually(lambda: not zone.jobs.here(job.id))
    assert await zone.duties.all() == frozenset()


async def test_a_job_is_written_down_before_it_runs(zone: AgentZone) -> None:
    stored: list[JobState.ValueType] = []

    async def look(job: Job) -> None:
        stored.append((await zone.book.get(job.id)).record.state)

    use(zone, Script(look))
    await ended(zone, (await start(zone)).id)

    assert stored == [JOB_STATE_RUNNING]


async def test_its_progress_is_written_for_other_agents(two: tuple[AgentZone, AgentZone]) -> None:
    first, second = two

    async def moves(job: Job) -> None:
        job.begin("hashing", 10)
        job.progress(4)
        await asyncio.Event().wait()

    use(first, Script(moves))
    job = await start(first)

    async with asyncio.timeout(BOUND):
        async for shown in second.job_service.watch(job.id):
            if shown.record.done_bytes == 4:
                break
    assert (shown.record.phase, shown.record.total_bytes, shown.record.agent) == ("hashing", 10, "first")


async def test_a_fault_of_ours_ends_its_job_only(zone: AgentZone) -> None:
    async def broken(job: Job) -> None:
        if job.object_id == 2:
            raise ZeroDivisionError
        await forever(job)

    use(zone, Script(broken))
    other = await at_work(zone, 1)
    job = await start(zone, 2)
    record = await ended(zone, job.id)

    assert (record.state, record.code) == (JOB_STATE_FAILED, "internal")
    assert "ZeroDivision" not in record.error.text
    assert other.state == JOB_STATE_RUNNING


@pytest.mark.parametrize("also", [KeyError("ours"), Unavailable("etcd is away")])
async def test_a_failure_that_cannot_be_carried_out_is_carried_out_later(zone: AgentZone, also: Exception) -> None:
    script = use(zone, Script(refuses))
    script.fails = also
    job = await start(zone)
    async with asyncio.timeout(BOUND):
        with pytest.raises(Refused, match="no"):
            await zone.jobs.ended(job)
    judged = (await zone.book.get(job.id)).record
    script.fails = None
    await zone.jobs.resume_all()
    record = await ended(zone, job.id)

    assert (judged.state, judged.error.text) == (JOB_STATE_RUNNING, "no")
    assert (record.state, record.error.text, record.deaths) == (JOB_STATE_FAILED, "no", 0)
    assert script.asked == ["run"]  # it was not begun again


async def test_whoever_watches_sees_the_end_even_if_it_came_while_he_was_busy(zone: AgentZone) -> None:
    use(zone, Script())
    job = await at_work(zone)
    seen = []
    async for shown in zone.job_service.watch(job.id):
        seen.append(shown.record.state)
        if len(seen) == 1:
            await zone.job_service.cancel(job.id)

    assert seen == [JOB_STATE_RUNNING, JOB_STATE_CANCELLED]


async def test_cancelling_a_job_twice_ends_it_once(zone: AgentZone) -> None:
    script = use(zone, Script())
    job = await at_work(zone)
    async with asyncio.timeout(BOUND):
        both = await asyncio.gather(zone.job_service.cancel(job.id), zone.job_service.cancel(job.id))

    assert [one.record.state for one in both] == [JOB_STATE_CANCELLED] * 2
    assert len(script.failures) == 1
    with pytest.raises(Refused, match="CANCELLED"):
        await zone.job_service.cancel(job.id)


async def test_a_job_that_is_cancelled_before_its_first_step_ends(zone: AgentZone) -> None:
    script = use(zone, Script())
    job = await start(zone)
    async with asyncio.timeout(BOUND):
        shown = await zone.job_service.cancel(job.id)

    assert (shown.record.state, len(script.failures)) == (JOB_STATE_CANCELLED, 1)


async def test_a_job_of_another_agent_is_cancelled_by_a_mark(two: tuple[AgentZone, AgentZone]) -> None:
    first, second = two
    script = use(first, Script())
    job = await at_work(first)
    async with asyncio.timeout(BOUND):
        shown = await second.job_service.cancel(job.id)

    assert shown.record.state == JOB_STATE_CANCELLED
    assert len(script.failures) == 1


async def test_two_jobs_of_one_thing_do_not_run_at_a_time(two: tuple[AgentZone, AgentZone]) -> None:
    first, second = two
    use(first, Script())
    job = await at_work(first)
    with pytest.raises(Refused, match=job.id):
        await start(first)
    with pytest.raises(Refused, match="another agent"):
        await start(second)


async def test_a_job_waits_for_its_turn_and_no_more_wait_than_may(zone: AgentZone) -> None:
    zone.jobs._settings = JobSettings(queue=6)
    use(zone, Script())
    jobs = [await start(zone, image) for image in range(6)]
    await eventually(lambda: [job.record.phase for job in jobs].count("waiting") == 4)
    states = [(await zone.book.get(job.id)).record.state for job in jobs]

    assert states == [JOB_STATE_RUNNING] * 4 + [JOB_STATE_QUEUED] * 2
    with pytest.raises(Unavailable, match="6 jobs"):
        await start(zone, 7)
    await zone.job_service.cancel(jobs[5].id)  # which waits
    await zone.job_service.cancel(jobs[0].id)
    await eventually(lambda: jobs[4].record.phase == "waiting")


async def test_jobs_are_left_to_the_next_agent_when_one_stops(tmp_path: Path) -> None:
    store = MemoryStore()
    async with AgentZone(tmp_path, store=store, agent="first") as zone:
        script = use(zone, Script())
        job = await at_work(zone)
    async with AgentZone(tmp_path, store=store, agent="second") as zone:
        again = use(zone, Script(at_once))
        await zone.recovery.look(alone=False)
        record = await ended(zone, job.id)

    assert script.failures == []
    assert again.asked == ["resume", "run"]
    assert (record.state, record.attempts, record.deaths, record.agent) == (JOB_STATE_DONE, 2, 0, "second")


async def test_whoever_watches_is_told_that_the_agent_stops(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        zone = await stack.enter_async_context(AgentZone(tmp_path))
        use(zone, Script())
        job = await at_work(zone)
        watch = zone.job_service.watch(job.id)
        await anext(watch)
        await stack.aclose()
        with pytest.raises(Unavailable, match="watch it again"):
            async for _ in watch:
                pass
        with pytest.raises(Unavailable, match="goes on"):
            await zone.jobs.ended(job)


async def test_a_job_whose_agent_died_is_taken_up_at_once_and_only_once(tmp_path: Path) -> None:
    store = MemoryStore()
    zone = await AgentZone(tmp_path, store=store, agent="first").__aenter__()
    use(zone, Script())
    job = await at_work(zone)
    await dies(zone)
    async with (
        AgentZone(tmp_path, store=store, agent="second") as second,
        AgentZone(tmp_path, store=store, agent="third") as third,
    ):
        scripts = [use(one, Script(at_once)) for one in (second, third)]
        await asyncio.gather(second.recovery.look(alone=False), third.recovery.look(alone=False))
        record = await ended(second, job.id)
        await third.recovery.look(alone=False)

    assert sorted(script.asked for script in scripts) == [[], ["resume", "run"]]
    assert (record.state, record.attempts, record.deaths) == (JOB_STATE_DONE, 2, 1)


async def test_a_job_that_was_done_when_its_agent_died_is_not_done_again(tmp_path: Path) -> None:
    store = MemoryStore()
    zone = await AgentZone(tmp_path, store=store, agent="first").__aenter__()
    use(zone, Script())
    job = await at_work(zone)
    await dies(zone)
    async with AgentZone(tmp_path, store=store, agent="second") as second:
        script = use(second, Script())
        script.left_to_do = False
        await second.recovery.look(alone=False)
        record = await ended(second, job.id)

    assert (record.state, script.asked) == (JOB_STATE_DONE, ["resume"])


async def test_a_job_on_which_three_agents_died_is_not_begun_again(tmp_path: Path) -> None:
    store = MemoryStore()
    job_id = ""
    for at in range(3):
        zone = await AgentZone(tmp_path, store=store, agent=f"agent-{at}").__aenter__()
        use(zone, Script())
        if not at:
            job_id = (await at_work(zone)).id
        await zone.jobs.resume_all()
        job = zone.jobs.here(job_id)
        assert job is not None
        await eventually(lambda job=job: job.record.phase == "waiting" and job.state == JOB_STATE_RUNNING)  # type: ignore[misc]
        await dies(zone)
    async with AgentZone(tmp_path, store=store, agent="last") as zone:
        script = use(zone, Script(at_once))
        await zone.recovery.look(alone=False)
        record = await ended(zone, job_id)
        assert (record.state, record.deaths, script.asked) == (JOB_STATE_FAILED, 3, [])
        assert "3 agents" in record.error.text

        await zone.job_service.retry(job_id)  # a person may know better
        assert (await ended(zone, job_id)).state == JOB_STATE_DONE


async def test_an_agent_that_was_taken_for_dead_leaves_its_job_to_the_other(two: tuple[AgentZone, AgentZone]) -> None:
    first, second = two
    zombie, healthy = use(first, Script()), use(second, Script())
    job = await at_work(first)
    await first.store.txn(Txn({}, deletes=[first.keyspace.duty(job.fence)]))  # as when its lease has ended
    await second.jobs.resume_all()
    await eventually(lambda: first.jobs.here(job.id) is None)

    stored = await first.book.get(job.id)
    assert (stored.record.agent, stored.ended) == ("second", False)
    assert zombie.failures == healthy.failures == []


async def test_a_job_that_failed_runs_again_under_its_id(zone: AgentZone) -> None:
    script = use(zone, Script(refuses))
    job = await start(zone)
    await ended(zone, job.id)
    script.step = at_once
    shown = await zone.job_service.retry(job.id)
    record = await ended(zone, job.id)

    assert (shown.record.attempts, shown.record.error.text) == (2, "")
    assert (record.state, record.attempts) == (JOB_STATE_DONE, 2)
    assert script.asked == ["run", "check_retry", "resume", "run"]


async def test_what_cannot_be_run_again_is_refused(zone: AgentZone) -> None:
    script = use(zone, Script())
    job = await at_work(zone)
    with pytest.raises(Refused, match="has not ended"):
        await zone.job_service.retry(job.id)
    await zone.job_service.cancel(job.id)
    script.may_retry = False
    with pytest.raises(Refused, match="cannot be made again"):
        await zone.job_service.retry(job.id)
    use(zone, Script(at_once))
    done = await start(zone, 2)
    await ended(zone, done.id)
    with pytest.raises(Refused, match="is done"):
        await zone.job_service.retry(done.id)
    for unknown in ("", "nowhere", "../head", "x" * 5000):
        with pytest.raises(NotFound, match="job list"):
            await zone.job_service.retry(unknown)


async def test_jobs_are_listed_by_state_and_kind_the_newest_first_in_pages(zone: AgentZone) -> None:
    seconds = count(1000)
    zone.book._clock = lambda: next(seconds)
    script = use(zone, Script(at_once))
    zone.jobs.serve(JOB_KIND_CREATE, "app", script)
    ids = []
    for at in range(5):
        kind, of = (JOB_KIND_CREATE, "app") if at % 2 else (JOB_KIND_EXPORT, "image")
        job = await zone.jobs.start(job_for(kind, JobObject(kind=of, id=at), zone.admin))
        ids.append(job.id)
        await ended(zone, job.id)
    script.step = forever
    running = await at_work(zone, 9)
    ids.append(running.id)

    pages: list[list[str]] = []
    after = ""
    while not pages or after:
        page, after = await zone.job_service.list(after, 2)
        pages.append([stored.id for stored in page])
    assert pages == [ids[:-3:-1], ids[-3:-5:-1], ids[1::-1]]
    page, _ = await zone.job_service.list("", 10, states=[JOB_STATE_RUNNING])
    assert [stored.id for stored in page] == [running.id]
    page, _ = await zone.job_service.list("", 10, kinds=[JOB_KIND_CREATE])
    assert [stored.id for stored in page] == [ids[3], ids[1]]
    assert (await zone.job_service.list("", 10, kinds=[JOB_KIND_CLONE]))[0] == []
    with pytest.raises(BadInput, match="next"):
        await zone.job_service.list("nonsense", 10)


async def test_ended_jobs_are_forgotten_by_age_and_by_number(zone: AgentZone) -> None:
    seconds = count(1_000_000)
    zone.book._clock = lambda: next(seconds)
    use(zone, Script(at_once))
    jobs = []
    for at in range(7):
        jobs.append(await start(zone, at))
        await ended(zone, jobs[-1].id)
    use(zone, Script())
    running = await at_work(zone, 9)
    now = (await zone.book.get(jobs[-1].id)).record.ended_ms / 1000

    assert await zone.job_service.expire(now) == 2  # no more than 5 are kept
    assert {stored.id for stored in await zone.book.all()} == {running.id, *(job.id for job in jobs[2:])}
    assert await zone.job_service.expire(now + 31 * DAY) == 5
    assert [stored.id for stored in await zone.book.all()] == [running.id]


async def test_no_job_starts_before_the_agent_is_ready(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="try again"):
        await start(AgentZone(tmp_path))


async def test_a_job_that_cannot_be_written_down_does_not_begin(zone: AgentZone) -> None:
    script = use(zone, Script())

    def away(txn: Txn, moment: Moment) -> None:
        if touches(txn, "job/"):
            raise StoreUnavailable("etcd is away")

    zone.store.fault = away
    with pytest.raises(StoreUnavailable):
        await start(zone)
    zone.store.fault = lambda txn, moment: None

    assert (script.asked, await zone.duties.all()) == ([], frozenset())
