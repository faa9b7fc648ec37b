"""etcd as a child: it starts, keeps its data, and never outlives its agent."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.etcd.child import ChildSettings, EmbeddedEtcd
from federation.etcd.client import connect
from federation.etcd.store import EtcdStore
from federation.store import KeyValue, Txn
from fedmarket.errors import ConfigError, Unavailable
from tests.support.etcd import etcd_binary, free_port
from tests.support.waiting import eventually

SETTINGS = ChildSettings(binary=etcd_binary())

AGENT = """
import asyncio, sys
from pathlib import Path
from federation.etcd.child import ChildSettings, EmbeddedEtcd

async def main():
    async with EmbeddedEtcd(Path(sys.argv[1]), ChildSettings(binary=sys.argv[2])) as etcd:
        print(etcd.pid, flush=True)
        await etcd.wait()

asyncio.run(main())
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "etcd"


@pytest.fixture
def agent(directory: Path) -> Iterator["Agent"]:
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, directory, SETTINGS.binary], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield Agent(process, etcd_pid=int(process.stdout.readline()))
        process.kill()


class Agent:
    """Another process that has embedded an etcd in the directory."""

    def __init__(self, process: subprocess.Popen[str], etcd_pid: int) -> None:
        self.process = process
        self.etcd_pid = etcd_pid


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def put(etcd: EmbeddedEtcd, key: str) -> KeyValue:
    async with connect([etcd.endpoint]) as client:
        result = await EtcdStore(client).txn(Txn({}, puts={key: b"v"}))
    return KeyValue(key, b"v", result.revision)


async def get(etcd: EmbeddedEtcd, key: str) -> KeyValue | None:
    async with connect([etcd.endpoint]) as client:
        return await EtcdStore(client).get(key)


async def test_it_serves_once_it_is_started_and_is_gone_once_it_is_stopped(directory: Path) -> None:
    async with EmbeddedEtcd(directory, SETTINGS) as etcd:
        written = await put(etcd, "a")
        assert await get(etcd, "a") == written
        pid = etcd.pid
        assert is_running(pid)
    assert not is_running(pid)


async def test_its_data_survives_a_restart(directory: Path) -> None:
    async with EmbeddedEtcd(directory, SETTINGS) as etcd:
        written = await put(etcd, "a")
    async with EmbeddedEtcd(directory, SETTINGS) as etcd:
        assert await get(etcd, "a") == written


async def test_its_directory_is_for_its_owner_only(directory: Path) -> None:
    async with EmbeddedEtcd(directory, SETTINGS):
        assert directory.stat().st_mode & 0o777 == 0o700


async def test_each_directory_is_a_cluster_of_its_own_for_good(tmp_path: Path) -> None:
    async def cluster_id(directory: Path) -> int:
        async with EmbeddedEtcd(directory, SETTINGS) as etcd, connect([etcd.endpoint]) as client:
            return (await client.status()).header.cluster_id

    first = await cluster_id(tmp_path / "a")
    assert await cluster_id(tmp_path / "a") == first
    assert await cluster_id(tmp_path / "b") != first


async def test_it_dies_with_an_agent_that_is_killed(agent: Agent) -> None:
    assert is_running(agent.etcd_pid)
    agent.process.kill()
    await eventually(lambda: not is_running(agent.etcd_pid))


async def test_a_directory_belongs_to_one_agent_at_a_time(agent: Agent, directory: Path) -> None:
    with pytest.raises(ConfigError, match="another agent"):
        await EmbeddedEtcd(directory, SETTINGS).start()
    assert is_running(agent.etcd_pid)


async def test_a_directory_is_free_again_when_its_agent_was_killed(agent: Agent, directory: Path) -> None:
    agent.process.kill()
    agent.process.wait()
    async with EmbeddedEtcd(directory, SETTINGS) as etcd:
        await put(etcd, "a")


@pytest.fixture
def leftover(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An etcd on the directory whose agent is gone."""
    directory.mkdir(mode=0o700)
    url = f"http://127.0.0.1:{free_port()}"
    command = [SETTINGS.binary, f"--data-dir={directory / 'data'}", "--logger=zap", "--log-outputs=stderr"]
    command += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
    command += [f"--listen-peer-urls=http://127.0.0.1:{free_port()}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"serving client traffic" not in process.stderr.readline():
            assert process.poll() is None
        (directory / "etcd.pid").write_text(f"{process.pid}\n")
        yield process
        process.kill()


@pytest.fixture
def bystander(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with the id that an etcd of the directory once had."""
    directory.mkdir(mode=0o700)
    with subprocess.Popen(["sleep", "600"]) as process:
        (directory / "etcd.pid").write_text(f"{process.pid}\n")
        yield process
        process.kill()


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
async def test_an_etcd_that_an_earlier_agent_left_behind_is_ended(
    directory: Path, leftover: subprocess.Popen[bytes], frozen: bool
) -> None:
    if frozen:
        leftover.send_signal(signal.SIGSTOP)
    async with EmbeddedEtcd(directory, ChildSettings(binary=SETTINGS.binary, stop_seconds=1.0)) as etcd:
        assert leftover.poll() is not None
        await put(etcd, "a")


async def test_a_process_that_only_has_the_same_id_is_left_alone(
    directory: Path, bystander: subprocess.Popen[bytes]
) -> None:
    async with EmbeddedEtcd(directory, SETTINGS):
        assert bystander.poll() is None


async def test_a_program_that_is_not_there_is_a_clear_error(directory: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no program 'no-such-etcd'.*install Debian's etcd-server or set \[etcd\] binary"
    ):
        await EmbeddedEtcd(directory, ChildSettings(binary="no-such-etcd")).start()


async def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        await EmbeddedEtcd(tmp_path / "file" / "etcd", SETTINGS).start()


async def test_a_configured_port_that_is_taken_is_a_clear_error(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken"):
            await EmbeddedEtcd(directory, ChildSettings(binary=SETTINGS.binary, client_port=port)).start()


async def test_an_etcd_of_someone_else_on_the_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    async with EmbeddedEtcd(tmp_path / "theirs", SETTINGS) as theirs:
        port = int(theirs.endpoint.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken"):
            await EmbeddedEtcd(tmp_path / "ours", ChildSettings(binary=SETTINGS.binary, client_port=port)).start()


async def test_a_port_taken_by_chance_is_exchanged_for_another(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], taken.getsockname()[1], free_port()])
        monkeypatch.setattr("federation.etcd.child._free_port", lambda: next(ports))
        async with EmbeddedEtcd(directory, SETTINGS) as etcd:
            await put(etcd, "a")
        assert next(ports, None) is None


async def test_a_configured_port_is_used(directory: Path) -> None:
    port = free_port()
    async with EmbeddedEtcd(directory, ChildSettings(binary=SETTINGS.binary, client_port=port)) as etcd:
        assert etcd.endpoint == f"127.0.0.1:{port}"
        await put(etcd, "a")


async def test_an_etcd_that_does_not_start_says_why_and_leaves_nothing_behind(directory: Path) -> None:
    async with EmbeddedEtcd(directory, SETTINGS):
        pass
    (directory / "data" / "member" / "snap" / "db").write_bytes(b"garbage" * 10_000)
    etcd = EmbeddedEtcd(directory, SETTINGS)
    with pytest.raises(Unavailable, match=r"exited with status .*: .*(invalid database|file size).*etcd\.log"):
        await etcd.start()
    async with EmbeddedEtcd(directory.parent / "other", SETTINGS) as other:  # nothing of the first holds on
        await put(other, "a")
    with pytest.raises(Unavailable):  # the directory itself was let go
        await EmbeddedEtcd(directory, SETTINGS).start()


async def test_an_etcd_that_never_answers_is_given_up(directory: Path, tmp_path: Path) -> None:
    mute = tmp_path / "mute-etcd"
    mute.write_text("#!/bin/sh\necho I am thinking >&2\nexec sleep 600\n")
    mute.chmod(0o755)
    settings = ChildSettings(binary=str(mute), start_seconds=0.5, stop_seconds=1.0)
    with pytest.raises(Unavailable, match="I am thinking"):
        await EmbeddedEtcd(directory, settings).start()


async def test_a_start_that_is_cancelled_leaves_no_process(directory: Path, tmp_path: Path) -> None:
    mute = tmp_path / "mute-etcd"
    mute.write_text("#!/bin/sh\nexec sleep 600\n")
    mute.chmod(0o755)
    starting = asyncio.ensure_future(EmbeddedEtcd(directory, ChildSettings(binary=str(mute))).start())
    pid_file = directory / "etcd.pid"
    await eventually(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    pid = int(pid_file.read_text())
    assert is_running(pid)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not is_running(pid)


async def test_an_unexpected_end_can_be_waited_for_and_it_starts_again_on_its_port(directory: Path) -> None:
    async with EmbeddedEtcd(directory, SETTINGS) as etcd:
        written = await put(etcd, "a")
        endpoint = etcd.endpoint
        os.kill(etcd.pid, signal.SIGKILL)
        assert await etcd.wait() == -signal.SIGKILL
        await etcd.start()
        assert etcd.endpoint == endpoint
        assert await get(etcd, "a") == written


async def test_one_that_could_not_start_again_can_be_tried_again(directory: Path) -> None:
    async with EmbeddedEtcd(directory, SETTINGS) as etcd:
        port = int(etcd.endpoint.rpartition(":")[2])
        written = await put(etcd, "a")
        os.kill(etcd.pid, signal.SIGKILL)
        await etcd.wait()
        with socket.create_server(("127.0.0.1", port)), pytest.raises(ConfigError, match=f"port {port}"):
            await etcd.start()
        assert await etcd.wait() == -signal.SIGKILL  # it still counts as exited
        await etcd.start()
        assert await get(etcd, "a") == written


async def test_one_that_does_not_stop_when_asked_is_killed(directory: Path) -> None:
    etcd = EmbeddedEtcd(directory, ChildSettings(binary=SETTINGS.binary, stop_seconds=0.2))
    await etcd.start()
    pid = etcd.pid
    os.kill(pid, signal.SIGSTOP)
    await etcd.stop()
    assert not is_running(pid)


async def test_stopping_what_never_started_is_nothing(directory: Path) -> None:
    await EmbeddedEtcd(directory, SETTINGS).stop()


async def test_settings_of_etcd_in_the_environment_do_not_reach_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCD_DATA_DIR", "/nowhere")
    monkeypatch.setenv("ETCD_PID", "1")
    async with EmbeddedEtcd(directory, SETTINGS) as etcd:
        await put(etcd, "a")
    assert (directory / "data").is_dir()
    assert "ETCD_" not in (directory / "etcd.log").read_text()


async def test_the_log_of_the_run_before_is_kept_and_no_more(directory: Path) -> None:
    for _ in range(3):
        async with EmbeddedEtcd(directory, SETTINGS):
            pass
    assert sorted(path.name for path in directory.glob("etcd.log*")) == ["etcd.log", "etcd.log.1"]
