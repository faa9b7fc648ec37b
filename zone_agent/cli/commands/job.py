"""`fedmarket job`: long operations of this zone, whichever of its agents runs them."""

import json
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Annotated

import typer

from fedmarket.jsonview import view
from fedmarket.pb.fedmarket.v1.job_pb2 import (
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    CancelJobRequest,
    Job,
    JobKind,
    JobState,
    ListJobsRequest,
    RetryJobRequest,
    ShowJobRequest,
)
from fedmarket.pb.fedmarket.v1.job_pb2_grpc import JobServiceStub
from zone_agent.cli.client import Client, client_command
from zone_agent.cli.groups import group
from zone_agent.cli.jobs import ENDED, require_done, watch_job
from zone_agent.cli.output import NOTHING, Column, Row, column, plain, time
from zone_agent.cli.progress import progress, wanted

commands = group()

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id, as `job list` shows it.")]


class State(Enum):
    """States of jobs."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Kind(Enum):
    """Kinds of jobs."""

    CREATE = "create"
    EXPORT = "export"
    IMPORT = "import"
    DOWNLOAD = "download"
    DELETE = "delete"
    CLONE = "clone"


def _object(row: Row) -> str:
    return plain(f"{row['object_kind']} {row['object_id']}")


def _progress(row: Row) -> str:
    return f"{100 * row['done_bytes'] // row['total_bytes']}%" if row["total_bytes"] else NOTHING


COLUMNS = (
    column("ID", "id"),
    column("KIND", "kind"),
    Column("OBJECT", _object),
    column("NAME", "object_name"),
    column("STAT", "state"),
    column("PHASE", "phase"),
    Column("DONE", _progress, right=True),
    time("STARTED", "started"),
    time("ENDED", "ended"),
)


@client_command(commands, "list")
def list_jobs(
    client: Client,
    every: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    state: Annotated[State | None, typer.Option("--state", help="Only those in this state.")] = None,
    kind: Annotated[Kind | None, typer.Option("--kind", help="Only those of this kind.")] = None,
) -> None:
    """List the jobs that wait or run, the newest first."""
    if state is not None:
        states = [JobState.Value(f"JOB_STATE_{state.name}")]
    else:
        states = [] if every else [JOB_STATE_QUEUED, JOB_STATE_RUNNING]
    kinds = [] if kind is None else [JobKind.Value(f"JOB_KIND_{kind.name}")]
    client.out.table(_pages(client, ListJobsRequest(states=states, kinds=kinds)), COLUMNS)


@client_command(commands, "show")
def show(client: Client, job: JobId) -> None:
    """Show a job."""
    stub = client.session.stub(JobServiceStub)
    client.out.show(client.session.call(stub.Show, ShowJobRequest(id=job)))


@client_command(commands, "watch")
def watch(client: Client, job: JobId) -> None:
    """Follow a job to its end, with a bar on a terminal, else a line per phase. Fails as the job does.

    With --json, an object on a line of its own each time that it has moved.
    """
    if client.out.as_json:
        ended = watch_job(client.session, job, _Printed(lambda seen: json.dumps(view(seen), ensure_ascii=False)))
    elif wanted():
        with progress("waiting") as report:
            ended = watch_job(
                client.session, job, lambda seen: report(seen.done_bytes, seen.total_bytes, seen.phase or None)
            )
    else:
        ended = watch_job(client.session, job, _Printed(_line))
    require_done(ended)


@client_command(commands, "cancel")
def cancel(client: Client, job: JobId) -> None:
    """Stop a job. What it was making is in ERROR then, and can be deleted, or made again by `job retry`."""
    stub = client.session.stub(JobServiceStub)
    stopped = client.session.call(stub.Cancel, CancelJobRequest(id=job), change=True)
    sentence = f"job {job} is {_state(stopped)}" if stopped.state in ENDED else f"job {job} is asked to stop"
    client.out.done(sentence, id=job, state=_state(stopped))


@client_command(commands, "retry")
def retry(client: Client, job: JobId) -> None:
    """Run a job that failed or was cancelled again, under the same id."""
    stub = client.session.stub(JobServiceStub)
    again = client.session.call(stub.Retry, RetryJobRequest(id=job), change=True)
    client.out.done(f"job {job} runs again: see `fedmarket job watch {job}`", id=job, state=_state(again))


def _pages(client: Client, request: ListJobsRequest) -> Iterator[Job]:
    stub = client.session.stub(JobServiceStub)
    while True:
        answer = client.session.call(stub.List, request)
        yield from answer.jobs
        if not answer.next:
            return
        request.after = answer.next


class _Printed:
    """Prints a job, unless that would be the same line again."""

    def __init__(self, text: Callable[[Job], str]) -> None:
        self._text = text
        self._last = ""

    def __call__(self, job: Job) -> None:
        text = self._text(job)
        if text != self._last:
            print(text, flush=True)
            self._last = text


def _line(job: Job) -> str:
    return plain(" ".join(part for part in (job.id, _state(job), job.phase) if part))


def _state(job: Job) -> str:
    return str(view(job)["state"])
