"""Transfers in real child processes: done, failed, cancelled, killed, frozen; none leaves a process."""

import asyncio
import hashlib
import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drivers.datastore.formats import HEADER_BYTES, Format, detect
from fedmarket.errors import Corrupt, NoSpace, NotFound, Refused, Timeout, Unavailable
from fedmarket.pb.fedmarket.v1.worker_pb2 import ConvertTask, CopyTask, FetchTask, TransferDone, TransferTask
from tests.support.stalled import Stalled, stalled
from tests.support.waiting import eventually
from tests.support.web import web_server
from tests.support.zones import runs, until
from zone_agent.transfer.worker.pool import Workers, WorkerSettings

BLOB = random.Random(13).randbytes(3 * (1 << 20) + 77)
SHA256, MD5 = hashlib.sha256(BLOB).digest(), hashlib.md5(BLOB).digest()
SIZE = len(BLOB)


class Host:
    """An image of BLOB, an empty file that is to be filled, and tasks between them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.image = directory / "image"
        self.image.write_bytes(BLOB)

    def empty(self, name: str) -> Path:
        path = self.directory / name
        path.touch()
        return path

    def copy(self, name: str = "app") -> TransferTask:
        task = CopyTask(source=str(self.image), target=str(self.empty(name)), size_bytes=SIZE, md5=True)
        return TransferTask(copy=task)

    def fetch(self, *urls: str, sha256: bytes = SHA256) -> TransferTask:
        task = FetchTask(
            urls=urls,
            target=str(self.empty("fetched")),
            size_bytes=SIZE,
            sha256=sha256,
            connect_seconds=5,
            idle_seconds=60,
        )
        return TransferTask(fetch=task)

    def convert(self, seconds: float = 60) -> TransferTask:
        task = ConvertTask(
            source=str(self.image),
            source_format="raw",
            target=str(self.empty("converted")),
            target_format="qcow2",
            size_bytes=SIZE,
            seconds=seconds,
        )
        return TransferTask(convert=task)

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    async with Workers() as made:
        yield made


@pytest.fixture
async def source() -> AsyncIterator[Stalled]:
    async with stalled(SIZE) as serving:
        yield serving


def unseen(done: int) -> None:
    """Take note of nothing."""


async def begun(workers: Workers, host: Host, source: Stalled) -> "tuple[asyncio.Task[TransferDone], int]":
    """Begin a fetch that will not end by itself; return it and its process, once its first bytes have come."""
    running = asyncio.create_task(workers(host.fetch(source.url), unseen))
    await eventually(lambda: running.done() or source.asked.is_set())
    assert not running.done(), running
    (pid,) = workers.pids
    return running, pid


async def works(workers: Workers, host: Host, name: str = "after") -> None:
    """Check that a transfer succeeds."""
    assert (await workers(host.copy(name), unseen)).sha256 == SHA256
    assert host.read(name) == BLOB


async def test_a_copy_has_both_digests_and_tells_its_first_bytes(host: Host, workers: Workers) -> None:
    done = await workers(host.copy(), unseen)
    assert (done.sha256, done.md5, done.size_bytes) == (SHA256, MD5, SIZE)
    assert done.head == BLOB[:HEADER_BYTES]
    assert host.read("app") == BLOB


async def test_a_worker_is_kept_for_the_next_transfer(host: Host, workers: Workers) -> None:
    await works(workers, host, "one")
    before = workers.pids
    await works(workers, host, "two")
    assert len(before) == 1
    assert workers.pids == before


async def test_transfers_at_the_same_time_have_a_worker_each(host: Host, workers: Workers) -> None:
    await asyncio.gather(*(works(workers, host, f"app{n}") for n in range(3)))
    assert len(workers.pids) == 3


async def test_a_blob_is_fetched_from_its_url_and_progress_is_told(host: Host, workers: Workers) -> None:
    seen: list[int] = []
    with web_server(host.directory) as url:
        done = await workers(host.fetch(f"{url}/image"), seen.append)
    assert (done.sha256, done.size_bytes, done.head) == (SHA256, SIZE, BLOB[:HEADER_BYTES])
    assert host.read("fetched") == BLOB
    assert seen
    assert sorted(seen) == seen


async def test_an_image_is_converted(host: Host, workers: Workers) -> None:
    done = await workers(host.convert(), unseen)
    stored = host.read("converted")
    assert (done.sha256, done.md5) == (hashlib.sha256(stored).digest(), hashlib.md5(stored).digest())
    assert detect(done.head, done.size_bytes).format == Format.QCOW2


async def test_errors_keep_their_cause_on_their_way_here_and_the_worker_lives_on(host: Host, workers: Workers) -> None:
    nothing = host.copy()
    nothing.copy.source += ".gone"
    with pytest.raises(NotFound, match=r"there is no blob image.gone"):
        await workers(nothing, unseen)
    short = host.copy()
    short.copy.size_bytes -= 1
    with pytest.raises(Corrupt, match="grew while it was read"):
        await workers(short, unseen)
    swept = host.copy()
    Path(swept.copy.target).unlink()
    with pytest.raises(Refused, match="was removed from staging"):
        await workers(swept, unseen)
    with pytest.raises(Timeout, match="took longer than 0 ms"):
        await workers(host.convert(seconds=0), unseen)
    assert len(workers.pids) == 1
    await works(workers, host)


async def test_a_full_disk_is_told_as_such(host: Host, workers: Workers) -> None:
    task = host.copy()
    task.copy.target = "/dev/full"
    with pytest.raises(NoSpace, match="does not fit into /dev"):
        await workers(task, unseen)
    await works(workers, host)


async def test_a_source_that_lies_is_found_out(host: Host, workers: Workers) -> None:
    with web_server(host.directory) as url, pytest.raises(Corrupt, match="where the record says"):
        await workers(host.fetch(f"{url}/image", sha256=b"\1" * 32), unseen)
    await works(workers, host)


async def test_a_cancelled_transfer_leaves_no_process(host: Host, workers: Workers, source: Stalled) -> None:
    running, pid = await begun(workers, host, source)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not runs(pid)
    await works(workers, host)


async def test_a_worker_that_is_killed_fails_its_transfer_only(host: Host, workers: Workers, source: Stalled) -> None:
    running, pid = await begun(workers, host, source)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="was killed by signal 9"):
        await running
    await works(workers, host)


async def test_a_worker_that_stands_still_is_killed(host: Host, source: Stalled) -> None:
    async with Workers(WorkerSettings(silence_seconds=4.0, grace_seconds=0.2)) as workers:
        running, pid = await begun(workers, host, source)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(Unavailable, match="said nothing for 4 s"):
            await running
        assert not runs(pid)


async def test_a_service_manager_that_ends_everything_leaves_the_transfer_to_the_agent(
    host: Host, workers: Workers, source: Stalled
) -> None:
    running, pid = await begun(workers, host, source)
    os.kill(pid, signal.SIGTERM)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not runs(pid)


async def test_the_end_of_the_agent_ends_the_workers(host: Host) -> None:
    async with Workers() as workers:
        await works(workers, host)
        (pid,) = workers.pids
    assert not runs(pid)


async def test_a_worker_without_work_ends(host: Host) -> None:
    async with Workers(WorkerSettings(idle_seconds=0.01)) as workers:
        await works(workers, host, "one")
        await eventually(lambda: workers.pids == [])
        await works(workers, host, "two")


async def test_an_idle_worker_that_was_killed_is_not_used(host: Host, workers: Workers) -> None:
    await works(workers, host, "one")
    (pid,) = workers.pids
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: workers.pids == [])
    await works(workers, host, "two")


async def test_a_worker_that_cannot_start_fails_the_transfer(host: Host) -> None:
    async with Workers(WorkerSettings(command=("/nowhere/python",))) as workers:
        with pytest.raises(Unavailable, match="ended with status 1"):
            await workers(host.copy(), unseen)


async def test_without_setpriv_the_error_says_what_to_install(
    host: Host, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable, match="install util-linux"):
        await workers(host.copy(), unseen)


async def test_a_signed_url_is_neither_an_argument_nor_a_variable(
    host: Host, workers: Workers, source: Stalled
) -> None:
    running, pid = await begun(workers, host, source)
    shown = b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
    running.cancel()
    await asyncio.wait([running])
    assert b"zone_agent.transfer.worker" in shown
    assert b"sig=secret" not in shown


async def test_a_worker_gives_way_to_the_agent_within_its_session(host: Host, workers: Workers) -> None:
    await works(workers, host)
    (pid,) = workers.pids
    assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getsid(pid) == os.getsid(0)


async def test_what_a_worker_logs_is_logged_here_without_the_url(
    host: Host, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        web_server(host.directory) as url,
        pytest.raises(Unavailable, match="does not hold the blob"),
    ):
        await workers(host.fetch(f"{url}/nothing?sig=secret"), unseen)
    assert "zone_agent.transfer.relay" in {record.name for record in caplog.records}
    assert "sig=secret" not in caplog.text


AGENT = """
import asyncio, sys
from fedmarket.pb.fedmarket.v1.worker_pb2 import TransferTask
from zone_agent.transfer.worker.pool import Workers

async def run():
    async with Workers() as workers:
        task = TransferTask.FromString(bytes.fromhex(sys.stdin.read()))
        await workers(task, lambda done: print(*workers.pids, flush=True))

asyncio.run(run())
"""


async def test_a_worker_does_not_outlive_an_agent_that_is_killed(host: Host, source: Stalled) -> None:
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert agent.stdin is not None
    assert agent.stdout is not None
    agent.stdin.write(host.fetch(source.url).SerializeToString().hex().encode())
    agent.stdin.close()
    pid = int(await agent.stdout.readline())
    assert runs(pid)
    agent.kill()
    await agent.communicate()
    await asyncio.to_thread(until, lambda: not runs(pid), "the worker has ended")
