import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmarket.errors import NoSpace
from tests.unit.cli.conftest import Fedmarket, Ran
from tests.unit.cli.fake_agent import FakeAgent
from zone_agent.cli import upload

Import = Callable[..., Ran]


@pytest.fixture
def import_file(fedmarket: Fedmarket) -> Import:
    def run(file: Path, *more: object) -> Ran:
        return fedmarket("image", "import", file, "--name", "disk", "--datastore", "default", *more)

    return run


@pytest.mark.parametrize("size", [1, upload.BLOCK - 1, upload.BLOCK, upload.BLOCK + 1, 3 * upload.BLOCK])
def test_a_file_arrives_whole(import_file: Import, agent: FakeAgent, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    file = tmp_path / "disk.img"
    file.write_bytes(content)

    image = import_file(file, "--type", "cdrom", "--json").json

    assert agent.imported == content
    assert image["sha256"] == hashlib.sha256(content).hexdigest()
    start = agent.asked[0]
    assert (start.name, start.datastore.name, start.size_bytes, start.path) == ("disk", "default", size, str(file))
    assert image["type"] == "cdrom"
    assert import_file(file).err == "", "no progress where nobody looks"


def test_what_cannot_be_sent_is_said_before_anything_is_sent(
    import_file: Import, agent: FakeAgent, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    cases = [
        (tmp_path / "missing", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "empty", "is empty"),
        (tmp_path / "pipe", "neither a file nor a block device"),
        (Path("/dev/null"), "neither a file nor a block device"),
    ]
    for file, says in cases:
        ran = import_file(file)
        assert ran.status == 2
        assert says in ran.sentence
        assert str(file) in ran.sentence
    assert agent.asked == []


def _shrink(file: Path) -> None:
    os.truncate(file, upload.BLOCK + 1)


def _grow(file: Path) -> None:
    with file.open("ab") as more:
        more.write(b"more")


def _rewrite(file: Path) -> None:
    with file.open("r+b") as changed:
        changed.write(b"changed")
    os.utime(file, ns=(1, 1))


@pytest.mark.parametrize(("change", "says"), [(_shrink, "became shorter"), (_grow, "changed"), (_rewrite, "changed")])
def test_a_file_that_changes_while_it_is_read_is_not_imported(
    import_file: Import,
    agent: FakeAgent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    says: str,
) -> None:
    file = tmp_path / "disk.img"
    file.write_bytes(b"x" * (3 * upload.BLOCK))
    read = upload._Sending._read
    reads: list[int] = []

    def changing_read(self: upload._Sending, count: int) -> bytes:
        reads.append(count)
        if len(reads) == 2:
            change(file)
        return read(self, count)

    monkeypatch.setattr(upload._Sending, "_read", changing_read)

    ran = import_file(file)

    assert ran.status == 2
    assert f"{file} {says}" in ran.sentence
    assert "nothing was imported" in ran.sentence
    assert agent.import_ended.wait(10)
    assert len(agent.imported) < 3 * upload.BLOCK, "the last block is not sent"
    assert agent.import_was_whole is False


def test_a_refusal_of_the_agent_is_its_sentence(import_file: Import, agent: FakeAgent, tmp_path: Path) -> None:
    agent.error = NoSpace("the datastore default is full: delete images")
    file = tmp_path / "disk.img"
    file.write_bytes(b"x" * (8 * upload.BLOCK))

    ran = import_file(file)

    assert (ran.status, ran.sentence) == (4, "the datastore default is full: delete images")


def test_an_agent_that_takes_no_more_is_given_up(import_file: Import, agent: FakeAgent, tmp_path: Path) -> None:
    agent.silent = True
    file = tmp_path / "disk.img"
    file.write_bytes(b"x" * (64 * upload.BLOCK))

    ran = import_file(file, "--timeout", "0.3")

    assert ran.status == 6
    assert "nothing was imported" in ran.sentence
    assert agent.import_ended.wait(10)


def test_an_import_that_was_sent_whole_and_not_answered_is_unknown(
    import_file: Import, agent: FakeAgent, tmp_path: Path
) -> None:
    agent.silent = True
    file = tmp_path / "disk.img"
    file.write_bytes(b"x")

    ran = import_file(file, "--timeout", "2")

    assert ran.status == 7
    assert "may or may not" in ran.sentence
