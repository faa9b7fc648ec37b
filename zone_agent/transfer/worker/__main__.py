"""A worker: does one transfer after the other, as its stdin tells it, and reports on what was its stdout.

It ends when its stdin ends, in the middle of a transfer too, which then leaves nothing behind.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from fedmarket.errors import FedmarketError, Internal, cause_of
from fedmarket.pb.fedmarket.v1.worker_pb2 import (
    TransferError,
    TransferLog,
    TransferReport,
    TransferStatus,
    TransferTask,
)
from zone_agent.transfer.worker.frames import framed, read_frame
from zone_agent.transfer.worker.perform import perform

log = logging.getLogger("zone_agent.transfer.worker")

NICE = 10
"""Added to our niceness: where a CPU is short, the agent comes first, and a transfer takes what is left."""
BEAT_SECONDS = 0.2
"""How often a transfer's status is told."""

Tell = Callable[[TransferReport], None]


class Status:
    """How far the transfer is; threads write it, the event loop tells it."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._done_bytes = 0

    def progress(self, done_bytes: int) -> None:
        """Count the bytes."""
        self._done_bytes = done_bytes

    async def run(self) -> None:
        """Tell it all the time, so that a worker that stands still is known by its silence."""
        while True:
            self._tell(TransferReport(status=TransferStatus(done_bytes=self._done_bytes)))
            await asyncio.sleep(BEAT_SECONDS)


class ToAgent(logging.Handler):
    """Gives what is logged here to the agent, which logs it in its own form."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        self._tell(TransferReport(log=TransferLog(level=record.levelno, name=record.name, text=self.format(record))))


async def serve(tasks: asyncio.StreamReader, tell: Tell) -> None:
    """Do tasks until there are no more; the stream's end ends one that is being done, and so would another task."""
    following = asyncio.ensure_future(read_frame(tasks, TransferTask))
    while (task := await following) is not None:
        following = asyncio.ensure_future(read_frame(tasks, TransferTask))
        doing = asyncio.ensure_future(_do(task, tell))
        await asyncio.wait({doing, following}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            doing.cancel()
            await asyncio.wait({doing})
            return
        doing.result()


async def _do(task: TransferTask, tell: Tell) -> None:
    status = Status(tell)
    beat = asyncio.create_task(status.run())
    try:
        report = TransferReport(done=await perform(task, status.progress))
    except FedmarketError as error:
        report = TransferReport(error=TransferError(code=cause_of(error).code, text=error.message))
    except Exception:  # the boundary to the agent, which is told no more than this
        log.exception("a transfer failed")
        failed = Internal("the transfer failed for a reason that is in the agent's log: report it")
        report = TransferReport(error=TransferError(code=cause_of(failed).code, text=failed.message))
    finally:
        beat.cancel()
    tell(report)


async def _run(out: BinaryIO) -> None:
    def tell(report: TransferReport) -> None:
        with suppress(BrokenPipeError):  # the agent is gone, and so is our stdin
            out.write(framed(report))
            out.flush()

    logging.basicConfig(level=logging.INFO, handlers=[ToAgent(tell)])
    tasks = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(tasks), sys.stdin)
    await serve(tasks, tell)


def main() -> None:
    """Run until stdin ends."""
    # A service manager ends all of a service's processes at once: how a transfer ends is for the agent to say.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICE)
    # What anyone prints must not come between our messages.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asyncio.run(_run(out))


if __name__ == "__main__":
    main()
