from pathlib import Path

import pytest

from zone_agent.cli import docs


def test_the_pages_are_up_to_date() -> None:
    for path, text in docs.pages():
        assert path.read_text(encoding="utf-8") == text, "run `python -m zone_agent.cli.docs`"


def test_a_stale_page_fails_the_check_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(docs, "DOCS", tmp_path)

    assert docs.main(["--check"]) == 1
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0
    (tmp_path / "cli.md").write_text("old")
    capsys.readouterr()
    assert docs.main(["--check"]) == 1
    assert str(tmp_path / "cli.md") in capsys.readouterr().err


def test_every_command_and_exit_code_is_described() -> None:
    page = docs.cli_page()

    for command in ("agent init DIR", "app download APP FILE", "federation status", "image import FILE"):
        assert f"### `fedmarket {command}" in page
    assert "| 8 |" in page
