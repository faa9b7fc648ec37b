"""Each invariant has faults that break it, kept as patches beside this file: the model test must notice every one.

The first line of a patch names the invariant and says what the fault is; a unified diff against the product follows,
as `git diff federation` gives it. A patch that no longer applies is made anew, or another fault is found for its place.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATCHES = sorted(HERE.glob("I*.patch"))
INVARIANTS = 12
SEED, RUNS = 1, 200


@pytest.mark.timeout(300)
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_the_model_notices_the_fault(patch: Path, tmp_path: Path) -> None:
    invariant = re.match(r"(I\d+): ", patch.read_text())
    assert invariant, f"{patch.name} does not begin with the invariant that it breaks"
    for package in ("fedmarket", "tests"):
        (tmp_path / package).symlink_to(ROOT / package)
    shutil.copytree(ROOT / "federation", tmp_path / "federation", ignore=shutil.ignore_patterns("__pycache__"))
    apply(patch.read_text(), tmp_path)
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(SEED), "--runs", str(RUNS)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, f"nothing was noticed in {RUNS} runs:\n{ended.stderr}"
    found = re.findall(r"^AssertionError: ([I0-9, ]+): (.*)", ended.stderr, re.MULTILINE)
    assert found, ended.stderr
    assert invariant[1] in found[-1][0].split(", "), f"noticed as {': '.join(found[-1])}"


def test_every_invariant_has_a_fault() -> None:
    named = {int(re.match(r"I(\d+): ", patch.read_text())[1]) for patch in PATCHES}  # type: ignore[index] # told above
    assert named == set(range(1, INVARIANTS + 1))


def apply(patch: str, root: Path) -> None:
    """Apply a unified diff. What it takes away must be there exactly once: a patch that has gone stale fails."""
    _, *files = re.split(r"^--- a/.*\n\+\+\+ b/", patch, flags=re.MULTILINE)
    assert files, "there is no diff in the patch"
    for file in files:
        name, _, body = file.partition("\n")
        path = root / name
        text = path.read_text()
        for hunk in re.split(r"^@@.*\n", body, flags=re.MULTILINE)[1:]:
            before, after = _side(hunk, " -"), _side(hunk, " +")
            assert text.count(before) == 1, f"the patch no longer applies to {name}:\n{before}"
            text = text.replace(before, after)
        path.write_text(text)


def _side(hunk: str, kept: str) -> str:
    """Return the lines of a hunk as they are on one side of it."""
    return "".join(f"{line[1:]}\n" for line in hunk.splitlines() if (line[:1] or " ") in kept)
