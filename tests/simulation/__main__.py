"""`python -m tests.simulation N` plays N seeds that nobody has tried; one that fails is printed and kept.

`python -m tests.simulation --seed S --runs R` plays one again.
"""

import argparse
import logging
import secrets
import sys
import traceback
from itertools import count

from tests.simulation.run import KEPT, Seed, keep, play

RUNS = 50
"""Runs of each new seed."""


def main() -> int:
    """Return the exit status: 1 if something failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", nargs="?", type=int, default=10, help="how many new seeds to play (10)")
    parser.add_argument("--seed", type=int, help="play this one instead")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"how many runs of it ({RUNS})")
    parser.add_argument("--shrink", action="store_true", help="look for a small run that fails alike: takes minutes")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what zones say in a storm of faults hides what is wrong
    if arguments.seed is not None:
        play(Seed(arguments.seed, arguments.runs), shrink=arguments.shrink)
        return 0
    held = [_try(Seed(secrets.randbits(32), RUNS)) for _ in range(arguments.seeds)]
    return 0 if all(held) else 1


def _try(seed: Seed) -> bool:
    """Play a seed. One that fails is kept, with as many runs as lead to the failure."""
    runs = count()
    try:
        play(seed, count=lambda: next(runs))
    except Exception as error:  # noqa: BLE001 -- whatever is wrong
        traceback.print_exc()
        seed = Seed(seed.seed, next(runs) - 1)  # hypothesis has played the last one twice, to print it
        keep(seed, str(error).partition("\n")[0] or repr(error))
        print(f"FAILED: {seed}, kept in {KEPT.name}; --seed {seed.seed} --runs {seed.runs} --shrink makes it smaller")
        return False
    print(f"{seed.seed} holds", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
