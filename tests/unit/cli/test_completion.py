"""Completion as a real bash does it, with the function that `--show-completion` gives it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmarket.pb.fedmarket.v1 import market_pb2
from tests.unit.cli.fake_agent import FakeAgent

FEDMARKET = Path(sys.executable).parent / "fedmarket"

COMPLETE = """
PATH="{bin}:$PATH"
source {script}
COMP_WORDS=({words})
COMP_CWORD={last}
COMP_LINE="${{COMP_WORDS[*]}}"
_fedmarket_completion fedmarket
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

Complete = Callable[..., list[str]]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Complete:
    """Return what a bash offers for a line, of which the last word is being written."""
    function = tmp_path_factory.mktemp("completion") / "fedmarket.bash"
    function.write_text(function_of("bash"))

    def complete(*words: str, **variables: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in ("fedmarket", *words))
        script = COMPLETE.format(bin=FEDMARKET.parent, script=function, words=line, last=len(words))
        kept = {key: value for key, value in os.environ.items() if not key.startswith("FEDMARKET_")}
        ran = subprocess.run(
            ["bash", "--norc", "-c", script], env=kept | variables, capture_output=True, text=True, check=True
        )
        assert ran.stderr == ""
        return ran.stdout.split()

    return complete


def test_commands_options_and_choices(complete: Complete) -> None:
    assert complete("mark") == ["market"]
    assert complete("market", "create", "--dri") == ["--driver"]
    assert complete("market", "create", "--driver", "") == ["http"]
    assert complete("agent", "run", "--log-level", "w") == ["warning"]


def test_names_come_from_the_agent(complete: Complete, agent: FakeAgent, credentials: Path) -> None:
    agent.markets = [market_pb2.Market(id=1, name="golden"), market_pb2.Market(id=2, name="silver")]
    variables = {"FEDMARKET_ENDPOINT": agent.endpoint, "FEDMARKET_CREDENTIALS": str(credentials)}

    assert complete("market", "show", "", **variables) == ["golden", "silver"]
    assert complete("app", "create", "--market", "s", **variables) == ["silver"]


def test_an_agent_that_is_not_there_offers_nothing_and_says_nothing(
    complete: Complete, credentials: Path, agent: FakeAgent
) -> None:
    agent.stop()

    assert (
        complete("market", "show", "", FEDMARKET_ENDPOINT=agent.endpoint, FEDMARKET_CREDENTIALS=str(credentials)) == []
    )


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_their_functions(shell: str) -> None:
    assert "_FEDMARKET_COMPLETE=complete_" in function_of(shell)


def function_of(shell: str) -> str:
    return subprocess.run(
        [FEDMARKET, "--show-completion", shell],
        env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},  # by which a shell can be named
        capture_output=True,
        text=True,
        check=True,
    ).stdout
