"""Processes that look like a demo's: an agent with an etcd as its child."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import pytest

from demo import processes

AGENT = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in sys.argv else lambda *_: sys.exit())
etcd = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
print("ready", flush=True)
try:
    sys.stdin.read()
finally:
    etcd.terminate()
    etcd.wait()
"""


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process in a session of its own, and wait until it has said something."""
    with subprocess.Popen(words, stdin=PIPE, stdout=PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def agent(directory: Path, zone: str, *more: str) -> tuple[str, ...]:
    config = str(directory / zone / "zone.toml")
    return (sys.executable, "-c", AGENT, "agent", "run", "--config", config, *more)


def test_an_agent_is_found_by_its_configuration(tmp_path: Path) -> None:
    with running(*agent(tmp_path, "berlin")) as process:
        found = processes.agents(tmp_path)
        assert {zone: each.pid for zone, each in found.items()} == {"berlin": process.pid}
        assert len(processes.descendants(found["berlin"])) == 1


def test_others_are_not_found(tmp_path: Path) -> None:
    say_and_wait = "echo ready; read -r end"
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    with (
        running(*agent(elsewhere, "berlin")),
        running("/bin/sh", "-c", say_and_wait, "tail", "-f", str(here / "berlin" / "zone.toml")),
        running("/bin/sh", "-c", say_and_wait, "vim", "--config", str(here / "berlin" / "zone.toml")),
    ):
        assert processes.agents(here) == {}
        assert processes.etcds(here) == []
        assert processes.stop(here) == []


def test_stop_ends_agents_and_their_children(tmp_path: Path) -> None:
    with running(*agent(tmp_path, "berlin")) as berlin, running(*agent(tmp_path, "tokyo")) as tokyo:
        children = [child for each in processes.agents(tmp_path).values() for child in processes.descendants(each)]
        ended = processes.stop(tmp_path)
        assert len(ended) == 4
        assert (berlin.wait(), tokyo.wait()) == (0, 0)
        assert not any(child.alive for child in children)


def test_an_agent_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_TIMEOUT", 0.2)
    with running(*agent(tmp_path, "berlin", "stubborn")) as process:
        children = processes.descendants(processes.agents(tmp_path)["berlin"])
        assert "killed" in processes.stop(tmp_path)[0]
        assert process.wait() == -9
        assert not any(child.alive for child in children)


def test_an_etcd_that_lost_its_agent_is_ended(tmp_path: Path) -> None:
    etcd = tmp_path / "bin" / "etcd"
    etcd.parent.mkdir()
    etcd.write_text("import sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
    zones = tmp_path / "zones"
    with running(sys.executable, str(etcd), "--data-dir", str(zones / "berlin" / "etcd")) as process:
        assert processes.stop(zones) == [f"an etcd that had lost its agent (pid {process.pid})"]
        assert process.wait() == -15


def test_a_process_of_the_same_number_is_not_the_same(tmp_path: Path) -> None:
    with running(*agent(tmp_path, "berlin")):
        found = processes.agents(tmp_path)["berlin"]
        assert found.alive
        assert not processes.Process(found.pid, found.started + 1, found.parent).alive


def test_one_that_has_ended_is_not_alive(tmp_path: Path) -> None:
    with running(*agent(tmp_path, "berlin")) as process:
        found = processes.agents(tmp_path)["berlin"]
        process.kill()
        assert processes.wait_until(lambda: not found.alive, 10)
