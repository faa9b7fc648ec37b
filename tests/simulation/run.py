"""Runs of the model test: by seed, so that each can be played again.

A seed and a number of runs mean the same runs as long as the rules of the machine and hypothesis are the same. A
failure that must never come back for certain is written down as a test of its own, in tests/unit/federation/.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.stateful import run_state_machine_as_test

from tests.simulation.machine import Zones

KEPT = Path(__file__).with_name("seeds.txt")
STEPS = 50


@dataclass(frozen=True)
class Seed:
    """Where to begin, and how many runs to play from there."""

    seed: int
    runs: int

    def __str__(self) -> str:
        return f"{self.seed} {self.runs}"


def play(seed: Seed, *, shrink: bool = False, count: Callable[[], object] = lambda: None) -> None:
    """Play the runs of a seed; the first that fails raises what is wrong with it, and is printed.

    Told to shrink, looks for a small run that fails alike, which takes minutes. Calls `count` before each run.
    """

    @hypothesis.seed(seed.seed)
    class Seeded(Zones):
        """The machine with its seed."""

        def __init__(self) -> None:
            count()
            super().__init__()

    settings = hypothesis.settings(
        max_examples=seed.runs,
        stateful_step_count=STEPS,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Seeded, settings=settings)


def kept() -> list[Seed]:
    """Return the seeds that have failed once."""
    lines = (line.partition("#")[0].split() for line in KEPT.read_text().splitlines())
    return [Seed(int(line[0]), int(line[1])) for line in lines if line]


def keep(seed: Seed, reason: str) -> None:
    """Add a seed to those that every later test plays first."""
    with KEPT.open("a") as file:
        file.write(f"\n# {reason}\n{seed}\n")
