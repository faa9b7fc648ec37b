"""The demo itself, as a newcomer runs it: the whole story on two real zones, and nothing left of it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo import processes

ROOT = Path(__file__).parents[2]
STORY_TIMEOUT = 180
"""Seconds; the story takes well under a minute on a machine with nothing else to do."""
START_TIMEOUT = 60

pytestmark = pytest.mark.timeout(2 * STORY_TIMEOUT)


def command(directory: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "demo", "--directory", str(directory), *more]


def demo(directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(directory, *more), cwd=ROOT, capture_output=True, text=True, timeout=STORY_TIMEOUT, check=False
    )


def in_shell(env_file: Path, script: str) -> str:
    return subprocess.run(
        ["/bin/sh", "-euc", f". {env_file}; {script}"], capture_output=True, text=True, timeout=60, check=True
    ).stdout


def nothing_runs(directory: Path) -> bool:
    return not processes.agents(directory) and not processes.etcds(directory)


def test_the_story_holds_and_leaves_no_process(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The story holds" in done.stdout
    assert nothing_runs(tmp_path)


def test_kept_zones_serve_a_shell_until_they_are_stopped(tmp_path: Path) -> None:
    done = demo(tmp_path, "--keep")
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        assert set(processes.agents(tmp_path)) == {"berlin", "tokyo"}
        apps = json.loads(in_shell(tmp_path / "tokyo.env", "fedmarket app list --json"))
        assert [app["state"] for app in apps] == ["ready"]
        pids = in_shell(tmp_path / "berlin.env", "echo $FEDMARKET_PID $ETCD_PID").split()
        assert int(pids[0]) == processes.agents(tmp_path)["berlin"].pid
        assert int(pids[1]) in [etcd.pid for etcd in processes.etcds(tmp_path)]
    finally:
        stopped = demo(tmp_path, "--stop")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert nothing_runs(tmp_path)
    assert "No demo is running" in demo(tmp_path, "--stop").stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_ended_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command(tmp_path), cwd=ROOT, env=os.environ, stdout=output, start_new_session=True)
    try:
        assert processes.wait_until(lambda: len(processes.etcds(tmp_path)) == 2, START_TIMEOUT)
        process.send_signal(number)
        assert process.wait(START_TIMEOUT) != 0
        assert processes.wait_until(lambda: nothing_runs(tmp_path), START_TIMEOUT)
    finally:
        process.kill()
        process.wait()
        processes.stop(tmp_path)
