from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from fedmarket.errors import NotFound
from fedmarket.pb.fedmarket.v1 import app_pb2, image_pb2, job_pb2, record_pb2
from tests.unit.cli.conftest import Fedmarket, Ran
from tests.unit.cli.fake_agent import FakeAgent

Start = Callable[..., Ran]
Watch = Callable[[Any], Iterator[job_pb2.Job]]

RUNNING = job_pb2.Job(state=job_pb2.JOB_STATE_RUNNING, phase="hashing", done_bytes=5, total_bytes=10)
DONE = job_pb2.Job(state=job_pb2.JOB_STATE_DONE, phase="publishing", done_bytes=10, total_bytes=10)
FAILED = job_pb2.Job(state=job_pb2.JOB_STATE_FAILED, error="the market's directory is full: make room")


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
