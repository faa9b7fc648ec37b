"""Waiting for a long operation, whatever happens to the connection meanwhile."""

import time
from collections.abc import Callable
from typing import TypeVar

from fedmarket.errors import FedmarketError, NotFound, Refused, Timeout, Unavailable, error_of
from fedmarket.jsonview import view
from fedmarket.pb.fedmarket.v1.app_pb2 import App
from fedmarket.pb.fedmarket.v1.image_pb2 import Image
from fedmarket.pb.fedmarket.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_DONE,
    JOB_STATE_FAILED,
    Job,
    WatchJobRequest,
)
from fedmarket.pb.fedmarket.v1.job_pb2_grpc import JobServiceStub
from fedmarket.retry import Backoff, is_retryable
from zone_agent.cli.progress import progress
from zone_agent.cli.session import Session

RECONNECT = Backoff(first_seconds=0.2, longest_seconds=2.0)
RENEWALS = 3
"""A watch is renewed so many times within the timeout: a quiet one then tells that the agent still answers."""
ENDED = frozenset({JOB_STATE_DONE, JOB_STATE_FAILED, JOB_STATE_CANCELLED})
BEING_MADE = "locked"
FAILED = "error"

Made = TypeVar("Made", App, Image)
Told = Callable[[Job], None]


def await_made(session: Session, job_id: str, made: Made, show: Callable[[], Made]) -> Made:
    """Follow the job that makes an app or image, with a bar, and return what it made.

    Raises Refused with the job's reason if it failed; Unavailable if the agent cannot be asked any more.
    """
    what = f"{type(made).DESCRIPTOR.name.lower()} {made.id}"
    look = f"`fedmarket {type(made).DESCRIPTOR.name.lower()} show {made.id}`"
    try:
        with progress("waiting") as report:
            job = _Watch(session, job_id, lambda job: report(job.done_bytes, job.total_bytes, job.phase)).until_ended()
            if job is not None:
                require_done(job, f"{what} could not be made: see {look}")
            return _until_settled(session, show, what, look)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted, but the agent goes on with {what}: see {look}") from None


def watch_job(session: Session, job_id: str, told: Told) -> Job:
    """Follow a job to its end, over restarts of the agent, and return it; `told` gets it whenever it may have moved.

    Raises NotFound, Timeout if the agent cannot be asked any more.
    """
    job = _Watch(session, job_id, told, must_be_there=True).until_ended()
    if job is None:
        raise Timeout(f"job {job_id} cannot be watched any more: look again with `fedmarket job show {job_id}`")
    return job


def require_done(job: Job, otherwise: str = "the job failed: look at the agent's log") -> None:
    """Raise what a job failed with."""
    if job.state != JOB_STATE_DONE:
        text = job.error or otherwise
        raise error_of(job.code, text) if job.code else Refused(text)


class _Watch:
    """Watches a job; a stream that breaks is made anew until nothing was heard for the timeout."""

    def __init__(self, session: Session, job_id: str, told: Told, *, must_be_there: bool = False) -> None:
        self._session = session
        self._job_id = job_id
        self._told = told
        self._must_be_there = must_be_there
        self._heard = time.monotonic()
        self._failures = 0

    def until_ended(self) -> Job | None:
        """Return the ended job; None if it can no longer be watched."""
        limit = self._session.connection.timeout
        while time.monotonic() - self._heard < limit:
            try:
                job = self._one_stream(limit / RENEWALS)
            except NotFound:
                if self._must_be_there:
                    raise
                return None  # it has expired, or etcd was put back: what it made tells more
            except FedmarketError as error:
                if not is_retryable(error):
                    raise
                job = None
            if job is not None:
                return job
            self._failures += 1
            time.sleep(RECONNECT.delay(self._failures))
        return None

    def _one_stream(self, seconds: float) -> Job | None:
        stub = self._session.stub(JobServiceStub)
        with self._session.failing():
            for job in stub.Watch(WatchJobRequest(id=self._job_id), timeout=seconds, metadata=self._session.metadata):
                self._heard = time.monotonic()
                self._failures = 0
                self._told(job)
                if job.state in ENDED:
                    return job
        return None


def _until_settled(session: Session, show: Callable[[], Made], what: str, look: str) -> Made:
    """Ask for what was made until it is no longer being made, or the timeout is over."""
    limit = session.connection.timeout
    started = time.monotonic()
    tries = 0
    while True:
        last: FedmarketError | None = None
        try:
            made = show()
        except FedmarketError as error:
            if not is_retryable(error):
                raise
            last = error
        else:
            state = view(made)["state"]
            if state == FAILED:
                raise Refused(made.error or f"{what} could not be made: delete it and try again")
            if state != BEING_MADE:
                return made
        tries += 1
        if time.monotonic() - started > limit:
            break
        time.sleep(RECONNECT.delay(tries))
    if last is not None:
        raise Unavailable(f"{last.message}; what became of {what}, {look} tells")
    raise Timeout(f"{what} is still being made, but its job cannot be watched any more: see {look}")
