"""The model test: some 200 runs of 50 steps, and every run that has failed once."""

import pytest

from tests.simulation.run import Seed, kept, play

SEEDS = [Seed(1, 50), Seed(2, 50), Seed(3, 50), Seed(4, 50)]

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("seed", [*kept(), *SEEDS], ids=str)
def test_whatever_happens_what_was_promised_holds(seed: Seed) -> None:
    play(seed)
