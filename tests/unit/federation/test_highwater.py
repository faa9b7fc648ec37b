"""The high-water mark: what survives of a zone's commits when etcd is lost."""

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest

from federation.head import FEDERATION, PRIVATE, Head
from federation.highwater import HighWater, Mark, initialise
from fedmarket.errors import ConfigError

HEAD = Head(0, FEDERATION, 1, 7, bytes(32), 0, {"market": 105}, b"", "a", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    initialise(tmp_path / "highwater")
    return tmp_path / "highwater"


def test_a_new_zone_has_no_mark(path: Path) -> None:
    assert HighWater(path).mark(FEDERATION) is None
    assert HighWater(path).mark(PRIVATE) is None


async def test_what_was_noted_is_there_after_a_restart(path: Path) -> None:
    high_water = HighWater(path)
    high_water.note(HEAD)
    await high_water.flush()
    assert HighWater(path).mark(FEDERATION) == Mark(1, 7, {"market": 105})
    assert HighWater(path).mark(PRIVATE) is None


@pytest.mark.parametrize(("epoch", "seq", "taken"), [(1, 6, False), (1, 8, True), (2, 1, True)])
def test_a_mark_only_rises(path: Path, epoch: int, seq: int, taken: bool) -> None:
    high_water = HighWater(path)
    high_water.note(HEAD)
    high_water.note(replace(HEAD, epoch=epoch, seq=seq))
    mark = high_water.mark(FEDERATION)
    assert mark is not None
    assert mark.pair == ((epoch, seq) if taken else (1, 7))


def test_the_two_catalogs_have_marks_of_their_own(path: Path) -> None:
    high_water = HighWater(path)
    high_water.note(HEAD)
    high_water.note(replace(HEAD, catalog=PRIVATE, seq=3))
    federation, private = high_water.mark(FEDERATION), high_water.mark(PRIVATE)
    assert federation is not None
    assert private is not None
    assert (federation.pair, private.pair) == ((1, 7), (1, 3))


async def test_the_last_note_is_written_when_the_agent_stops(path: Path) -> None:
    high_water = HighWater(path)
    running = asyncio.create_task(high_water.run(interval_seconds=3600))
    high_water.note(HEAD)
    await asyncio.sleep(0)
    high_water.note(replace(HEAD, seq=9))
    running.cancel()
    await asyncio.wait([running])
    mark = HighWater(path).mark(FEDERATION)
    assert mark is not None
    assert mark.pair == (1, 9)


async def test_stopping_while_the_file_is_being_written_leaves_the_newest_mark(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, begun, dump = threading.Event(), threading.Event(), json.dump

    def first_is_slow(content: object, file: TextIO, indent: int) -> None:
        if not begun.is_set():
            begun.set()
            slow.wait(10)
        dump(content, file, indent=indent)

    monkeypatch.setattr(json, "dump", first_is_slow)
    high_water = HighWater(path)
    high_water.note(HEAD)
    running = asyncio.create_task(high_water.run())
    await asyncio.to_thread(begun.wait, 10)
    high_water.note(replace(HEAD, seq=10_000))
    running.cancel()
    threading.Timer(0.3, slow.set).start()  # the write in the thread ends after the agent has begun to stop
    await asyncio.wait([running])
    assert running.cancelled()
    await asyncio.get_running_loop().shutdown_default_executor()
    mark = HighWater(path).mark(FEDERATION)
    assert mark is not None
    assert mark.pair == (1, 10_000)


def test_a_file_that_is_missing_is_not_taken_for_a_new_zone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing"):
        HighWater(tmp_path / "highwater")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"federation": "none"}', '{"federation": {}, "private": "none"}']
)
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "highwater"
    path.write_text(text)
    with pytest.raises(ConfigError, match="highwater cannot be read"):
        HighWater(path)


def test_the_file_says_none_for_a_zone_that_has_committed_nothing(path: Path) -> None:
    assert json.loads(path.read_text()) == {"federation": "none", "private": "none"}
