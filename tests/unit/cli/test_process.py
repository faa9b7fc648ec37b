"""What only a process of its own can show: what it imports, its file descriptors, its signals."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmarket.pb.fedmarket.v1 import app_pb2, market_pb2
from tests.unit.cli.fake_agent import FakeAgent

PROGRAM = [sys.executable, "-c", "import sys; from zone_agent.cli.main import main; sys.exit(main())"]
MODULES = "import sys; from zone_agent.cli.main import run; run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"


@pytest.fixture
def environment(agent: FakeAgent, credentials: Path) -> dict[str, str]:
    return os.environ | {"FEDMARKET_ENDPOINT": agent.endpoint, "FEDMARKET_CREDENTIALS": str(credentials)}


def modules(environment: dict[str, str], *args: str) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-c", MODULES, *args], env=environment, capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in ran.stderr.split()}


def test_help_imports_little(environment: dict[str, str]) -> None:
    heavy = {"grpc", "google", "rich", "cryptography", "aiohttp", "asyncio", "tenacity", "federation", "drivers"}

    assert not modules(environment, "--help") & heavy


def test_a_simple_command_imports_no_more_than_it_needs(environment: dict[str, str]) -> None:
    heavy = {"cryptography", "aiohttp", "rich", "federation", "drivers", "tenacity"}

    assert not modules(environment, "zone", "list", "--json") & heavy


def test_a_connection_that_breaks_shows_no_log_lines_of_grpc(agent: FakeAgent, environment: dict[str, str]) -> None:
    agent.silent = True
    agent.markets = [market_pb2.Market(id=1)]
    with subprocess.Popen(
        [*PROGRAM, "market", "delete", "1"], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert agent.was_asked.wait(60)
        agent.stop()
        _, err = process.communicate(timeout=60)

    assert process.returncode == 7
    assert err.startswith("fedmarket: the connection to the agent")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "status", "says"), [(signal.SIGINT, 130, "fedmarket: interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_a_signal_ends_a_download_and_leaves_nothing(
    agent: FakeAgent, environment: dict[str, str], tmp_path: Path, number: int, status: int, says: str
) -> None:
    reached = threading.Event()

    def hangs(offset: int, context: Any) -> Iterator[bytes]:
        yield b"part"
        reached.set()
        agent.wait_for_end(context)

    agent.apps = [app_pb2.App(id=1, name="a")]
    agent.set_blob(b"whole")
    agent.downloads = [hangs]
    place = tmp_path / "place"
    place.mkdir()
    with subprocess.Popen(
        [*PROGRAM, "app", "download", "a", str(place / "disk")], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert reached.wait(60)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (status, says)
    assert list(place.iterdir()) == []


def test_stdout_gets_the_bytes_of_an_app_and_nothing_else(agent: FakeAgent, environment: dict[str, str]) -> None:
    agent.apps = [app_pb2.App(id=1, name="a")]
    agent.set_blob(os.urandom(3 << 20))

    ran = subprocess.run([*PROGRAM, "app", "download", "a", "-"], env=environment, capture_output=True, check=True)

    assert (ran.stdout == agent.blob, ran.stderr) == (True, b"")


def test_a_reader_that_goes_away_is_no_error_to_talk_about(agent: FakeAgent, environment: dict[str, str]) -> None:
    agent.apps = [app_pb2.App(id=1, name="a")]
    agent.set_blob(bytes(8 << 20))
    with subprocess.Popen(
        [*PROGRAM, "app", "download", "a", "-"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        err = process.stderr.read()

    assert (process.returncode, err) == (141, b"")


def test_a_terminal_sees_progress_and_a_pipe_does_not(
    agent: FakeAgent, environment: dict[str, str], tmp_path: Path
) -> None:
    agent.apps = [app_pb2.App(id=1, name="a")]
    agent.set_blob(bytes(3 << 20))
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [*PROGRAM, "app", "download", "a", str(tmp_path / "disk"), "--json"],
        env=environment | {"TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = read_terminal(ours)
        assert process.stdout is not None
        out = process.stdout.read()

    assert process.returncode == 0
    assert json.loads(out)["size_bytes"] == 3 << 20
    assert b"receiving" in shown
    assert b"3.0/3.0 MiB" in shown


def test_completion_knows_commands_and_options(environment: dict[str, str]) -> None:
    def complete(words: str) -> list[str]:
        ran = subprocess.run(
            PROGRAM,
            env=environment
            | {"_FEDMARKET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()))},
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stdout.split()

    assert {"app", "market", "zone"} <= set(complete("fedmarket "))
    assert {"create", "export"} <= set(complete("fedmarket app "))


def read_terminal(descriptor: int) -> bytes:
    """Read until the other side is closed."""
    shown = b""
    with os.fdopen(descriptor, "rb", buffering=0) as terminal:
        while True:
            try:
                part = terminal.read(4096)
            except OSError:
                return shown
            if not part:
                return shown
            shown += part
