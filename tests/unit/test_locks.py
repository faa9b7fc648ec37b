"""The locks of requirements/ are installed into one environment, so they must agree."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    return dict(PIN.findall((ROOT / "requirements" / name).read_text()))


@pytest.mark.parametrize("name", ["run.txt", "build.txt"])
def test_the_development_lock_holds_the_same_versions(name: str) -> None:
    assert pins(name)
    assert pins(name).items() <= pins("dev.txt").items()


def test_the_build_is_locked_to_what_it_requires() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    required = dict(requirement.split("==") for requirement in project["build-system"]["requires"])
    assert required == pins("build.in")
    assert required.items() <= pins("build.txt").items()


@pytest.mark.parametrize("name", ["run.txt", "build.txt", "dev.txt", "etcd.txt", "lock.txt"])
def test_every_pin_has_hashes(name: str) -> None:
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements" / name).read_text().strip())
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
