import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from fedmarket.errors import NotFound, Refused
from fedmarket.pb.fedmarket.v1 import app_pb2, image_pb2, job_pb2, record_pb2
from tests.unit.cli.conftest import Fedmarket, Ran
from tests.unit.cli.fake_agent import FakeAgent

Start = Callable[..., Ran]
Watch = Callable[[Any], Iterator[job_pb2.Job]]

RUNNING = job_pb2.Job(state=job_pb2.JOB_STATE_RUNNING, phase="hashing", done_bytes=5, total_bytes=10)
DONE = job_pb2.Job(state=job_pb2.JOB_STATE_DONE, phase="publishing", done_bytes=10, total_bytes=10)
FAILED = job_pb2.Job(state=job_pb2.JOB_STATE_FAILED, error="the market's directory is full: make room", code="refused")
CANCELLED = job_pb2.Job(state=job_pb2.JOB_STATE_CANCELLED, error="the job was cancelled: retry it", code="cancelled")


def says(*jobs: job_pb2.Job) -> Watch:
    def watch(_context: Any) -> Iterator[job_pb2.Job]:
        yield from jobs

    return watch


def breaks(*jobs: job_pb2.Job) -> Watch:
    def watch(context: Any) -> Iterator[job_pb2.Job]:
        yield from jobs
        context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")

    return watch


def hangs(*jobs: job_pb2.Job) -> Watch:
    def watch(context: Any) -> Iterator[job_pb2.Job]:
        yield from jobs
        FakeAgent.wait_for_end(context)

    return watch


@pytest.fixture
def create(fedmarket: Fedmarket, agent: FakeAgent) -> Start:
    agent.apps = [app_pb2.App(id=100, name="a", state=record_pb2.APP_STATE_READY)]
    return lambda *more: fedmarket("app", "create", "--image", "i", "--market", "m", "--name", "a", *more)


@pytest.fixture
def export(fedmarket: Fedmarket, agent: FakeAgent) -> Start:
    agent.images = [image_pb2.Image(id=5, name="a", state=record_pb2.IMAGE_STATE_READY)]
    return lambda *more: fedmarket("app", "export", "a@berlin", "--datastore", "default", "--name", "a", *more)


def test_create_waits_and_shows_the_ready_app(create: Start, agent: FakeAgent) -> None:
    agent.watches = [says(RUNNING, DONE)]

    ran = create("--description", "d", "--version", "1", "--json")

    assert (ran.status, ran.err) == (0, "")
    assert (ran.json["id"], ran.json["state"]) == (100, "ready")
    assert (agent.asked[0].description, agent.asked[0].version) == ("d", "1")
    assert agent.asked[1].id == "job-1"


def test_export_waits_and_shows_the_ready_image(export: Start, agent: FakeAgent) -> None:
    agent.watches = [says(DONE)]

    ran = export("--format", "qcow2", "--json")

    assert (ran.json["id"], ran.json["state"]) == (5, "ready")
    assert (agent.asked[0].app.name, agent.asked[0].format) == ("a@berlin", "qcow2")


def test_without_waiting_the_id_is_printed_at_once(create: Start, export: Start, agent: FakeAgent) -> None:
    assert create("--no-wait").out == "100\n"
    assert export("--no-wait").out == "5\n"
    started = create("--no-wait", "--json").json
    assert (started["state"], started["job_id"]) == ("locked", "job-1")
    assert len(agent.asked) == 3


def test_a_job_that_fails_is_its_sentence(create: Start, export: Start, agent: FakeAgent) -> None:
    agent.watches = [says(RUNNING, FAILED)]

    for ran in (create("--json"), export()):
        assert (ran.status, ran.sentence, ran.out) == (4, FAILED.error, "")


@pytest.mark.parametrize("first", [breaks(), breaks(RUNNING), says(RUNNING), says(), hangs(RUNNING)])
def test_a_watch_that_breaks_is_made_anew(create: Start, agent: FakeAgent, first: Watch) -> None:
    agent.watches = [first, says(RUNNING, DONE)]

    ran = create("--timeout", "6")

    assert (ran.status, ran.err) == (0, "")
    assert [type(request) for request in agent.asked].count(job_pb2.WatchJobRequest) == 2


def test_a_job_that_the_agent_has_forgotten_is_told_by_what_it_made(create: Start, agent: FakeAgent) -> None:
    def forgotten(context: Any) -> Iterator[job_pb2.Job]:
        agent.fail(NotFound("there is no such job"), context)
        yield RUNNING

    agent.watches = [forgotten]

    assert create("--json").json["state"] == "ready"
    agent.apps[0].state = record_pb2.APP_STATE_ERROR
    agent.apps[0].error = "the agent was stopped: delete the app and create it again"
    ran = create()
    assert (ran.status, ran.sentence) == (4, agent.apps[0].error)


def test_a_job_that_cannot_be_watched_at_all_is_told_by_what_it_made(create: Start, agent: FakeAgent) -> None:
    agent.watches = [breaks()]

    assert create("--timeout", "0.5", "--json").json["state"] == "ready"


def test_waiting_ends_when_nothing_is_ever_ready(create: Start, agent: FakeAgent) -> None:
    agent.watches = [breaks()]
    agent.apps[0].state = record_pb2.APP_STATE_LOCKED

    ran = create("--timeout", "0.3")

    assert ran.status == 6
    assert "`fedmarket app show 100`" in ran.sentence


def test_an_interrupt_says_that_the_agent_goes_on(
    create: Start, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zone_agent.cli.jobs._Watch.until_ended", interrupt)

    ran = create()

    assert ran.status == 130
    assert "goes on" in ran.sentence


@pytest.fixture
def listed(agent: FakeAgent) -> FakeAgent:
    states = [job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_QUEUED] + [job_pb2.JOB_STATE_DONE] * 4
    agent.jobs = [
        job_pb2.Job(id=f"{at}abc", kind=job_pb2.JOB_KIND_EXPORT, state=state, object_kind="image", object_id=at)
        for at, state in enumerate(states)
    ]
    agent.jobs[0].done_bytes, agent.jobs[0].total_bytes = 1, 3
    return agent


def test_jobs_that_have_not_ended_are_listed_unless_more_is_asked_for(fedmarket: Fedmarket, listed: FakeAgent) -> None:
    ran = fedmarket("job", "list")
    assert ran.status == 0
    header, first, second = ran.out.splitlines()
    assert header.split() == ["ID", "KIND", "OBJECT", "NAME", "STAT", "PHASE", "DONE", "STARTED", "ENDED"]
    assert first.split() == ["0abc", "export", "image", "0", "-", "running", "-", "33%", "-", "-"]
    assert second.split()[0] == "1abc"

    assert [job["id"] for job in fedmarket("job", "list", "--all", "--json").json] == [job.id for job in listed.jobs]
    assert len(fedmarket("job", "list", "--state", "done", "--json").json) == 4
    fedmarket("job", "list", "--kind", "clone")
    assert list(listed.asked[-1].kinds) == [job_pb2.JOB_KIND_CLONE]


def test_one_job_is_shown(fedmarket: Fedmarket, listed: FakeAgent) -> None:
    ran = fedmarket("job", "show", "1abc", "--json")
    assert (ran.json["id"], ran.json["kind"], ran.json["state"]) == ("1abc", "export", "queued")


def test_a_watched_job_is_a_line_per_phase_or_an_object_per_change(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.watches = [says(RUNNING, RUNNING, DONE)]

    ran = fedmarket("job", "watch", "1abc")
    assert (ran.status, ran.out.splitlines()) == (0, ["running hashing", "done publishing"])
    ran = fedmarket("job", "watch", "1abc", "--json")
    assert [json.loads(line)["state"] for line in ran.out.splitlines()] == ["running", "done"]


def test_a_watch_goes_on_over_a_restart_and_ends_as_the_job_does(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.watches = [breaks(RUNNING), says(), says(FAILED)]
    ran = fedmarket("job", "watch", "1abc", "--timeout", "6")
    assert (ran.status, ran.sentence) == (4, FAILED.error)

    agent.watches = [says(CANCELLED)]
    assert fedmarket("job", "watch", "1abc").sentence == CANCELLED.error


def test_a_job_that_is_not_there_cannot_be_watched(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.error = NotFound("there is no job 'x': look at `fedmarket job list --all`")
    ran = fedmarket("job", "watch", "x")
    assert (ran.status, ran.sentence) == (3, agent.error.message)


def test_a_job_is_cancelled_and_retried(fedmarket: Fedmarket, listed: FakeAgent) -> None:
    listed.jobs[0].state = job_pb2.JOB_STATE_CANCELLED
    assert fedmarket("job", "cancel", "0abc").out == "job 0abc is cancelled\n"
    assert fedmarket("job", "cancel", "1abc").out == "job 1abc is asked to stop\n"
    assert fedmarket("job", "retry", "1abc", "--json").json == {"id": "1abc", "state": "queued"}
    listed.error = Refused("job 0abc is done: there is nothing to repeat")
    assert fedmarket("job", "retry", "0abc").sentence == listed.error.message


def test_a_download_to_the_agent_waits_and_says_where_it_is(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.watches = [says(RUNNING, DONE)]

    assert fedmarket("app", "download", "a", "--to-agent", "a.raw").out == "/downloads/a.raw\n"
    assert [type(request) for request in agent.asked] == [app_pb2.FetchAppRequest, job_pb2.WatchJobRequest]
    started = fedmarket("app", "download", "a", "--to-agent", "b.raw", "--no-wait", "--json").json
    assert started == {"path": "/downloads/b.raw", "job_id": "job-1"}
    agent.watches = [says(FAILED)]
    assert fedmarket("app", "download", "a", "--to-agent", "a.raw").status == 4
    for places in ([], ["here", "--to-agent", "there"]):
        assert fedmarket("app", "download", "a", *places).status == 2


def test_a_clone_waits_and_shows_the_ready_image(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.images = [image_pb2.Image(id=5, name="a", state=record_pb2.IMAGE_STATE_READY)]
    agent.watches = [says(DONE)]

    assert fedmarket("image", "clone", "a", "--name", "b", "--json").json["state"] == "ready"
    assert (agent.asked[0].name, agent.asked[0].HasField("datastore")) == ("b", False)
    assert fedmarket("image", "clone", "a", "--name", "b", "--datastore", "d", "--no-wait").out == "5\n"
    assert agent.asked[-1].datastore.name == "d"
