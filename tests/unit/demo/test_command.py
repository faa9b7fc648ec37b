from pathlib import Path

import pytest

from demo import command
from demo.command import Command
from demo.errors import DemoError, StepFailed
from demo.narrator import Narrator


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A user whose `fedmarket` prints the rest of its words and exits with the status in the first."""
    script = tmp_path / "fedmarket"
    script.write_text('#!/bin/sh\nstatus=$1; shift; echo "${ANSWER:-$*}"; echo "sorry: $*" >&2; exit "$status"\n')
    script.chmod(0o755)
    monkeypatch.setattr(command, "BIN", tmp_path)
    return Command("berlin", {"ANSWER": '[{"id": 7}]'}, Narrator())


def test_ask_returns_what_the_command_answers(user: Command) -> None:
    assert user.ask("0", "app", "list") == [{"id": 7}]


def test_ask_fails_with_the_words_of_the_command(user: Command) -> None:
    with pytest.raises(StepFailed, match="sorry: app list --json"):
        user.ask("3", "app", "list")


def test_try_ask_returns_nothing_while_the_command_fails(user: Command) -> None:
    assert user.try_ask("6", "app", "list") is None


def test_an_answer_that_is_not_json_fails_the_step(user: Command) -> None:
    user.variables["ANSWER"] = "a table"
    with pytest.raises(StepFailed, match="a table"):
        user.ask("0", "app", "list")


def test_run_fails_when_the_command_does(user: Command) -> None:
    user.run("0", "app", "list")
    with pytest.raises(StepFailed, match="exit status 8"):
        user.run("8", "app", "list")


def test_a_refusal_is_shown_and_returned(user: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert user.refused("4", "market", "delete") == "sorry: market delete\n"
    assert "sorry: market delete" in capsys.readouterr().out


@pytest.mark.parametrize("status", ["0", "1", "6"])
def test_only_a_refusal_is_one(user: Command, status: str) -> None:
    with pytest.raises(StepFailed, match=f"exit status {status}"):
        user.refused(status, "market", "delete")


def test_a_missing_command_says_what_to_do(user: Command, tmp_path: Path) -> None:
    (tmp_path / "fedmarket").unlink()
    with pytest.raises(DemoError, match="make install"):
        user.run("0")
