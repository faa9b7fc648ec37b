"""The workers of an agent: child processes, kept for a while, since to start one takes longer than a small blob does.

A worker does one transfer at a time. It lives no longer than the agent: the kernel kills it when the agent dies.
"""

import asyncio
import logging
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from fedmarket.errors import FedmarketError, Internal, Unavailable, error_of
from fedmarket.pb.fedmarket.v1.worker_pb2 import TransferDone, TransferReport, TransferTask
from fedmarket.threads import ended, to_the_end
from zone_agent.transfer.worker.frames import framed, read_frame
from zone_agent.transfer.worker.perform import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How workers are run."""

    # -P: a directory that happens to be where the agent was started is not where modules are looked for.
    command: tuple[str, ...] = (sys.executable, "-P", "-m", "zone_agent.transfer.worker")
    idle_seconds: float = 60.0
    """A worker without work for so long is ended."""
    grace_seconds: float = 5.0
    """For a worker to clean up and end, before it is killed; and for the kernel to end it then."""
    silence_seconds: float = 30.0
    """A worker that says nothing of its transfer for so long is killed: it speaks several times a second."""


class Gone(Exception):
    """A worker ended, or has to be ended, without saying how its transfer ended."""


class Workers:
    """Does transfers in child processes. As many run at a time as are asked for: jobs are bounded elsewhere."""

    def __init__(self, settings: WorkerSettings = WorkerSettings()) -> None:
        self._settings = settings
        self._idle: dict[_Worker, asyncio.TimerHandle] = {}
        self._all: set[_Worker] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for timer in self._idle.values():
            timer.cancel()
        self._idle.clear()
        await to_the_end(self._end_all())

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that live."""
        return [worker.pid for worker in self._all if worker.lives]

    async def __call__(self, task: TransferTask, progress: Progress) -> TransferDone:
        """Do a transfer, as `perform` does. Raises Unavailable too, if the process that did it died or cannot start.

        When this returns or raises, also when cancelled, nothing writes to the target any more.
        """
        worker = self._take() or await self._start()
        try:
            outcome = await worker.do(task, progress)
        except Gone as gone:
            await to_the_end(worker.end())
            raise Unavailable(
                f"the process that moved the bytes {gone}: look into the agent's log and, if memory may have run out, "
                "into this host's kernel log; then try again"
            ) from None
        except BaseException:
            await to_the_end(worker.end())
            raise
        self._keep(worker)
        if isinstance(outcome, FedmarketError):
            raise outcome
        return outcome

    def _take(self) -> "_Worker | None":
        """Return a worker that has nothing to do, the last that had: those before it may come to their end."""
        while self._idle:
            worker, timer = self._idle.popitem()
            timer.cancel()
            if worker.lives:
                return worker
        return None

    def _keep(self, worker: "_Worker") -> None:
        loop = asyncio.get_running_loop()
        self._idle[worker] = loop.call_later(self._settings.idle_seconds, self._retire, worker)

    def _retire(self, worker: "_Worker") -> None:
        del self._idle[worker]
        worker.dismiss()

    async def _start(self) -> "_Worker":
        self._all = {worker for worker in self._all if worker.lives}
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise Unavailable("there is no program 'setpriv' on this host to start transfers with: install util-linux")
        try:
            process = await asyncio.create_subprocess_exec(
                setpriv, "--pdeathsig", "KILL", "--", *self._settings.command,
                stdin=PIPE, stdout=PIPE,
                # A group, so that what it has started can be killed with it. No session: Linux shares a CPU out between
                # sessions first (sched_autogroup), and our niceness would not count against the agent's.
                process_group=0,
            )  # fmt: skip
        except OSError as error:
            raise Unavailable(
                f"no process could be started to move the bytes ({error.strerror}): see how many this host allows, and "
                "how much memory is free; then try again"
            ) from error
        worker = _Worker(process, self._settings)
        self._all.add(worker)
        return worker

    async def _end_all(self) -> None:
        await asyncio.gather(*(worker.end() for worker in self._all))


class _Worker:
    """One child process."""

    def __init__(self, process: Process, settings: WorkerSettings) -> None:
        self._process = process
        self._settings = settings

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lives(self) -> bool:
        return self._process.returncode is None

    async def do(self, task: TransferTask, progress: Progress) -> TransferDone | FedmarketError:
        """Do a transfer, and return how it ended. Raises Gone."""
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - asked for above; narrows the type
        with suppress(ConnectionError):  # then it is gone, which its stdout says too
            stdin.write(framed(task))
            await stdin.drain()
        while True:
            report = await self._next()
            match report.WhichOneof("report"):
                case "status":
                    progress(report.status.done_bytes)
                case "log":
                    said = report.log
                    logging.getLogger(said.name).log(said.level, "%s", said.text)
                case "done":
                    return report.done
                case "error":
                    return error_of(report.error.code, report.error.text)
                case _:
                    return Internal("a process that moves bytes is of another version: start the agent again")

    def dismiss(self) -> None:
        """Let it end: at once, in the middle of a transfer too."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def end(self) -> None:
        """End it, by force if need be."""
        self.dismiss()
        if not await self._ends():
            log.warning("a transfer's process %d does not end and is killed", self._process.pid)
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            if not await self._ends():
                log.error("process %d cannot even be killed: look whether a disk hangs", self._process.pid)

    async def _ends(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace_seconds):
                await self._process.wait()
        return not self.lives

    async def _next(self) -> TransferReport:
        """Return what it says next. Raises Gone if it says nothing more."""
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 - asked for above; narrows the type
        reading = asyncio.ensure_future(read_frame(stdout, TransferReport))
        try:
            # In two steps: after a sleep of the whole host the first has passed before anything could be read.
            for _ in range(2):
                await asyncio.wait({reading}, timeout=self._settings.silence_seconds / 2)
        finally:
            if not reading.done():
                reading.cancel()
                await ended(reading)
        if reading.cancelled():
            raise Gone(f"said nothing for {self._settings.silence_seconds:g} s and was ended")
        report = reading.result()
        if report is None:
            await self._ends()
            raise Gone(_how(self._process.returncode))
        return report


def _how(status: int | None) -> str:
    if status is None:
        return "closed its output and was ended"
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
