"""Forwarding, whatever is lost, doubled or late between two zones and in their etcd (tests/support/forwarding.py).

A change that was answered as done was made exactly once. One that was refused was not made and never is, also when its
delayed copies arrive and its reason has gone. What is unknown becomes definite when it is settled. Every call ends.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.draft import Draft
from federation.requests import RequestId, Requests, Ticket
from fedmarket.pb.fedmarket.v1.peer_pb2 import Refusal, RequestRecord
from tests.support.forwarding import checked, run


@pytest.mark.parametrize("seed", range(8))
def test_a_change_is_made_once_or_refused_for_good(seed: int, tmp_path: Path) -> None:
    run(checked(seed, tmp_path))


def test_the_model_meets_every_answer(tmp_path: Path) -> None:
    """Or it would prove nothing."""
    seen: Counter[str] = Counter()
    for seed in range(100, 104):
        seen += run(checked(seed, tmp_path / str(seed)))
    assert min(seen[answer] for answer in ("done", "refused", "unknown", "not sent")) > 5, seen


def forget_what_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Draft, "note", lambda *_, **__: None)


def forget_what_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(
        self: Requests, request: RequestId, refusal: Refusal, digest: bytes = b"", ticket: Ticket | None = None
    ) -> RequestRecord:
        found = await self.find(request)
        return found[0] if found else RequestRecord(change=digest, refusal=refusal)

    monkeypatch.setattr(Requests, "refuse", refuse)


def note_without_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    note = Draft.note
    monkeypatch.setattr(Draft, "note", lambda self, key, value, *, first: note(self, key, value, first=False))


@pytest.mark.parametrize("fault", [forget_what_was_made, forget_what_was_refused, note_without_looking])
def test_the_model_notices(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fault(monkeypatch)
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        find_a_broken_promise(tmp_path)


def find_a_broken_promise(directory: Path) -> None:
    for seed in range(20):
        run(checked(seed, directory / str(seed)))
