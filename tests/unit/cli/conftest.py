import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.fake_agent import CREDENTIALS, FakeAgent
from zone_agent.cli.main import run


@dataclass
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """What stderr says: exactly one line."""
        assert self.err.startswith("fedmarket: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("fedmarket: ").strip()


Fedmarket = Callable[..., Ran]


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    agent = FakeAgent()
    yield agent
    agent.stop()


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    file = tmp_path / "credentials"
    file.write_text(f"{CREDENTIALS}\n")
    return file


@pytest.fixture
def bare(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fedmarket:
    """Run `fedmarket` with these arguments and nothing in the environment."""
    monkeypatch.delenv("FEDMARKET_ENDPOINT", raising=False)
    monkeypatch.delenv("FEDMARKET_CREDENTIALS", raising=False)

    def fedmarket(*args: object) -> Ran:
        capsys.readouterr()
        status = run([str(arg) for arg in args])
        return Ran(status, *capsys.readouterr())

    return fedmarket


@pytest.fixture
def fedmarket(bare: Fedmarket, agent: FakeAgent, credentials: Path, monkeypatch: pytest.MonkeyPatch) -> Fedmarket:
    """Run `fedmarket` as a user of the fake agent."""
    monkeypatch.setenv("FEDMARKET_ENDPOINT", agent.endpoint)
    monkeypatch.setenv("FEDMARKET_CREDENTIALS", str(credentials))
    return bare
