"""Progress on stderr, where a person sees it; silent where nobody does, unless FEDMARKET_PROGRESS says otherwise."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

VARIABLE = "FEDMARKET_PROGRESS"
"""`always` shows bars where stderr is no terminal, too (once, when they are full); `never` shows none."""


class Progress(Protocol):
    """What a transfer or a job tells."""

    def __call__(self, done: int, total: int, phase: str | None = None) -> None:
        """Say how many bytes of how many are done; total 0: not known."""


def _silent(done: int, total: int, phase: str | None = None) -> None:
    """Say nothing."""


def wanted() -> bool:
    """Say whether to show bars: as FEDMARKET_PROGRESS says, else on a terminal only."""
    return {"always": True, "never": False}.get(os.environ.get(VARIABLE, ""), sys.stderr.isatty())


@contextmanager
def progress(phase: str) -> Iterator[Progress]:
    """Show a bar with bytes, rate and the time that is left, if anybody is to see it."""
    if not wanted():
        yield _silent
        return
    # Only who sees a bar pays for importing it.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=False) as bars:
        shown = phase
        task: TaskID | None = None

        def show(done: int, total: int, phase: str | None = None) -> None:
            nonlocal shown, task
            if task is None or (phase and phase != shown):
                # A new phase counts from its own start: its own bar, rate and time.
                shown = phase or shown
                task = bars.add_task(shown, total=None)
            bars.update(task, completed=done, total=total or None)

        yield show
