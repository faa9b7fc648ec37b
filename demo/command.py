"""The `fedmarket` command, as the user of one zone runs it."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from demo.errors import DemoError, StepFailed
from demo.narrator import Narrator

BIN = Path(sys.executable).parent
"""Where the command is, and the etcd that deploy/need brought where the system has none."""
TIMEOUT = 60.0
"""Seconds that one command may take."""
EXIT_REFUSED = 4
"""The command's documented exit status when the state, or the rule, does not allow what was asked."""


class Command:
    """Runs `fedmarket` with the environment of one zone's user."""

    def __init__(self, name: str, variables: dict[str, str], tell: Narrator) -> None:
        self.name = name
        self.variables = variables
        self.tell = tell

    def run(self, *words: str) -> None:
        """Run a command, its output and its progress bar on this terminal. Raises StepFailed unless it succeeds."""
        self.tell.command(self.name, "fedmarket", *words)
        done = self._fedmarket(words, capture=False)
        if done.returncode != 0:
            raise StepFailed(f"{self._named(words)} to succeed", f"exit status {done.returncode}")

    def ask(self, *words: str) -> Any:
        """Return what a command answers with --json, quietly. Raises StepFailed unless it succeeds."""
        done = self._fedmarket((*words, "--json"), capture=True)
        if done.returncode != 0:
            raise StepFailed(f"{self._named(words)} to succeed", done.stderr.strip())
        return self._parsed(words, done.stdout)

    def try_ask(self, *words: str) -> Any:
        """Return what a command answers with --json, or None while it does not."""
        done = self._fedmarket((*words, "--json"), capture=True)
        return self._parsed(words, done.stdout) if done.returncode == 0 else None

    def refused(self, *words: str) -> str:
        """Run a command that must be refused; show what its user sees, and return it. Raises StepFailed."""
        self.tell.command(self.name, "fedmarket", *words)
        done = self._fedmarket(words, capture=True)
        self.tell.stderr(done.stderr)
        if done.returncode != EXIT_REFUSED:
            raise StepFailed(
                f"{self._named(words)} to be refused with exit status {EXIT_REFUSED}", f"exit status {done.returncode}"
            )
        return done.stderr

    def _fedmarket(self, words: tuple[str, ...], *, capture: bool) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [BIN / "fedmarket", *words],
                env=os.environ | self.variables | {"FEDMARKET_PROGRESS": "never" if capture else "always"},
                stdin=subprocess.DEVNULL,
                capture_output=capture,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StepFailed(f"{self._named(words)} to end", f"nothing for {TIMEOUT:.0f} seconds") from error
        except FileNotFoundError as error:
            raise DemoError(f"There is no {BIN / 'fedmarket'}: run `make install`, then try again") from error

    def _parsed(self, words: tuple[str, ...], answer: str) -> Any:
        try:
            return json.loads(answer)
        except ValueError as error:
            raise StepFailed(f"JSON from {self._named(words)}", answer) from error

    def _named(self, words: tuple[str, ...]) -> str:
        return f"`fedmarket {shlex.join(words)}` in {self.name}"
