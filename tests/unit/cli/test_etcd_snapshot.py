"""A snapshot is kept only if it is what etcd sent."""

import hashlib
import io

import pytest

from fedmarket.errors import Corrupt
from zone_agent.cli.snapshot import SnapshotFile

DATABASE = bytes(range(256)) * 64
SENT = DATABASE + hashlib.sha256(DATABASE).digest()


def received(content: bytes, part: int) -> SnapshotFile:
    file = SnapshotFile(io.BytesIO(), "127.0.0.1:2379")
    for start in range(0, len(content), part):
        file.write(content[start : start + part])
    return file


@pytest.mark.parametrize("part", [1, 31, 33, 512, len(SENT)])
def test_a_snapshot_that_came_whole_is_known_by_its_digest(part: int) -> None:
    file = received(SENT, part)
    assert file.verify() == hashlib.sha256(DATABASE).hexdigest()
    assert file.size == len(SENT)


@pytest.mark.parametrize(
    "content", [b"", SENT[:-1], SENT[:-32], SENT[:512] + SENT[-32:], b"\1" + SENT[1:], hashlib.sha256(b"").digest()]
)
def test_anything_else_is_corrupt(content: bytes) -> None:
    with pytest.raises(Corrupt, match="take it again"):
        received(content, 100).verify()
