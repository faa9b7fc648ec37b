"""The benchmarks still run, on sizes that mean nothing; no time is looked at."""

from pathlib import Path

import pytest

from tests.bench import zone


def test_the_benchmark_of_a_zone_fills_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    figures = zone.bench(short=True)
    lines = zone.table(figures).splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == len(zone.ROWS) + 1
    assert figures["creates_failed"] == figures["creates_missing_in_berlin"] == 0
    assert figures["stale_own"] == figures["stale_forwarded"] == 0
    assert all(value >= 0 for value in figures.values())
