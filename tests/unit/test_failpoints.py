"""Failpoints do what the environment says, once, and nothing without it; each has a test that dies at it."""

import os
import signal
import subprocess
import sys

import pytest

from fedmarket import failpoints
from fedmarket.errors import BadInput, Internal
from fedmarket.failpoints import VARIABLE, Action, Armed, Failpoint, hit
from tests.system.test_failpoints import CASES

HIT_TWICE = """
from fedmarket.failpoints import Failpoint, hit
hit(Failpoint.JOB_BEGUN)
hit(Failpoint.JOB_WRITTEN)
print("once", flush=True)
hit(Failpoint.JOB_WRITTEN)
print("twice", flush=True)
"""


def run(setting: str | None) -> tuple[int, str]:
    """Return how a process ends that hits a failpoint twice, and what it said."""
    variables = {key: value for key, value in os.environ.items() if key != VARIABLE}
    if setting is not None:
        variables[VARIABLE] = setting
    ended = subprocess.run(
        [sys.executable, "-c", HIT_TWICE], env=variables, capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout


def test_an_agent_is_killed_at_every_failpoint() -> None:
    assert {case.point for case in CASES} == set(Failpoint)
    assert len({case.id for case in CASES}) == len(CASES)


def test_without_the_variable_nothing_happens() -> None:
    assert run(None) == (0, "once\ntwice\n")


def test_a_process_kills_itself_at_its_point_at_the_time_that_was_said() -> None:
    assert run("job-written") == (-signal.SIGKILL, "")
    assert run("job-written=kill@2") == (-signal.SIGKILL, "once\n")
    assert run("job-written@3") == (0, "once\ntwice\n")


@pytest.mark.parametrize("text", ["", "nowhere", "job-written=explode", "job-written@often"])
def test_what_names_no_failpoint_is_an_error_that_says_so(text: str) -> None:
    with pytest.raises(BadInput, match=VARIABLE):
        Armed.parse(text)


def test_an_error_is_raised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_armed", Armed(Failpoint.JOB_BEGUN, Action.ERROR, 1))
    hit(Failpoint.JOB_ENDED)
    with pytest.raises(Internal, match="job-begun"):
        hit(Failpoint.JOB_BEGUN)
    hit(Failpoint.JOB_BEGUN)


def test_a_delay_only_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(failpoints, "_armed", Armed(Failpoint.JOB_BEGUN, Action.DELAY, 1))
    monkeypatch.setattr("fedmarket.failpoints.time.sleep", slept.append)
    hit(Failpoint.JOB_BEGUN)
    hit(Failpoint.JOB_BEGUN)
    assert slept == [failpoints.DELAY_SECONDS]
