"""The high-water mark's file survives an agent that stops while it is being written."""

import asyncio
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from federation import highwater
from federation.head import FEDERATION, Head
from federation.highwater import HighWater
from federation.tree import Tree

BOUND = 5.0
HEAD = Head(
    zone=0,
    catalog=FEDERATION,
    epoch=1,
    seq=5,
    root=Tree.empty().root,
    count=0,
    next_ids={"app": 105},
    prev=b"",
    agent="a",
    time_ms=0,
)


async def test_a_mark_that_is_noted_while_the_agent_stops_is_written_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "high-water"
    highwater.initialise(path)
    writing, proceed, at_once = threading.Event(), threading.Event(), []
    fsync, lock = os.fsync, threading.Lock()

    def slow(fd: int) -> None:
        alone = lock.acquire(blocking=False)
        at_once.append(alone)
        if not writing.is_set():
            writing.set()
            assert proceed.wait(BOUND)
        fsync(fd)
        if alone:
            lock.release()

    marks = HighWater(path)
    running = asyncio.create_task(marks.run(0.001))
    monkeypatch.setattr(os, "fsync", slow)
    marks.note(HEAD)
    assert await asyncio.to_thread(writing.wait, BOUND)
    marks.note(replace(HEAD, seq=6))
    running.cancel()
    await asyncio.wait([running], timeout=0.05)
    proceed.set()
    await asyncio.wait([running], timeout=BOUND)

    assert running.cancelled()
    assert all(at_once), "two writes of the same file at once"
    assert json.loads(path.read_text())["federation"]["seq"] == 6


async def test_a_disk_that_was_full_for_a_while_gets_the_mark_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "high-water"
    highwater.initialise(path)
    marks = HighWater(path)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        marks.note(HEAD)
        with pytest.raises(OSError, match="No space"):
            await marks.run(0.001)

    again = asyncio.create_task(marks.run(0.001))
    async with asyncio.timeout(BOUND):
        while json.loads(path.read_text())["federation"] == "none":
            await asyncio.sleep(0.005)
    again.cancel()
    await asyncio.wait([again])
