"""How the story is told on the terminal."""

import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

FACT_WIDTH = 24


class Narrator:
    """Prints the story. What the `fedmarket` command prints stands between its lines as it came."""

    def __init__(self) -> None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character still shows the rest
        self._console = Console(highlight=False, soft_wrap=True)
        self._step = 0
        self._chapter = ""

    def begin(self, title: str, about: str) -> None:
        """Open the next step."""
        self._step += 1
        self._chapter = f"step {self._step} ({title}): "
        self._console.print()
        self._console.print(Rule(Text(f"{self._step:2}  {title}", "bold cyan"), align="left", style="cyan"))
        self.say(about)

    def say(self, text: str) -> None:
        """Explain what comes."""
        self._print(text, "dim")

    def command(self, where: str, *words: str) -> None:
        """Show a command as the user of a zone would type it."""
        typed = shlex.join(word.removeprefix(f"{Path.cwd()}/") for word in words)
        self._console.print(Text.assemble((f"{where}$ ", "bold magenta"), (typed, "bold")))

    def fact(self, name: str, value: str) -> None:
        """Show one fact of several."""
        self._console.print(Text.assemble((f"  {name:{FACT_WIDTH}}", "dim"), value))

    def holds(self, text: str) -> None:
        """Say what has just been seen to be so."""
        self._console.print(Text.assemble(("✓ ", "bold green"), text))

    def notice(self, text: str) -> None:
        """Say what is different here from the full story."""
        self._print(text, "yellow")

    def stderr(self, text: str) -> None:
        """Show what a command wrote to its standard error."""
        self._print(text.rstrip(), "red")

    def failure(self, text: str) -> None:
        """Say in which step the demo ends, and why."""
        self._console.print(Text.assemble(("✗ ", "bold red"), self._chapter, text))

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(text, style))
