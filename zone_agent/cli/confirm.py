"""Asking a person before something that cannot be undone."""

import sys

from fedmarket.errors import BadInput, Cancelled


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal, unless `yes` was said. Raises BadInput where nobody is there, Cancelled if not yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadInput("this cannot be undone, and nobody is here to be asked: say --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise Cancelled("nothing was changed, because the answer was not yes")
