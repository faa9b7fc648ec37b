import errno
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.copy import BLOCK, copy_blob
from drivers.files import BlobDirectory
from drivers.testkit.blobs import get, is_visible
from fedmarket.digests import Digests, Hasher
from fedmarket.errors import Cancelled, Corrupt, FedmarketError, Unavailable

DATA = bytes(range(256)) * (3 * BLOCK // 256) + b"the rest"


@pytest.fixture
def store(tmp_path: Path) -> BlobDirectory:
    return BlobDirectory(tmp_path, file_mode=0o640)


@pytest.fixture
def hasher() -> Iterator[Hasher]:
    with Hasher() as hasher:
        yield hasher


def ignore(_: int) -> None:
    pass


def never() -> bool:
    return False


@pytest.mark.parametrize("data", [b"", b"1", DATA[:BLOCK], DATA])
def test_the_copy_is_identical_and_its_digests_are_right(store: BlobDirectory, hasher: Hasher, data: bytes) -> None:
    with store.stage("blob", "job", len(data)) as staging:
        digests = copy_blob(io.BytesIO(data), len(data), staging, hasher, ignore, never)
        staging.commit()
    assert get(store, "blob") == data
    assert digests == Digests(hashlib.sha256(data).digest(), hashlib.md5(data).digest(), len(data))


def test_progress_counts_the_bytes_done(store: BlobDirectory, hasher: Hasher) -> None:
    seen: list[int] = []
    with store.stage("blob", "job", len(DATA)) as staging:
        copy_blob(io.BytesIO(DATA), len(DATA), staging, hasher, seen.append, never)
    assert seen == [BLOCK, 2 * BLOCK, 3 * BLOCK, len(DATA)]


class ShortReads(io.BytesIO):
    """Like a pipe: gives less than was asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 10_000))


def test_short_reads_are_not_the_end(store: BlobDirectory, hasher: Hasher) -> None:
    with store.stage("blob", "job", len(DATA)) as staging:
        copy_blob(ShortReads(DATA), len(DATA), staging, hasher, ignore, never)
        staging.commit()
    assert get(store, "blob") == DATA


def failure(store: BlobDirectory, hasher: Hasher, source: io.BytesIO, size: int) -> FedmarketError:
    """Return what the copy raises, after checking that nothing is left of it."""
    with pytest.raises(FedmarketError) as caught, store.stage("blob", "job", size) as staging:
        copy_blob(source, size, staging, hasher, ignore, never)
    assert not is_visible(store, "blob")
    assert store.sweep(lambda _: False) == 0
    return caught.value


def test_a_source_that_shrinks_is_corrupt(store: BlobDirectory, hasher: Hasher) -> None:
    error = failure(store, hasher, io.BytesIO(DATA[:-8]), len(DATA))
    assert type(error) is Corrupt
    assert error.message == (
        f"the source shrank while it was read: {len(DATA) - 8} of {len(DATA)} bytes; "
        "import it again when nothing writes to it"
    )


def test_a_file_that_is_cut_while_it_is_read_is_corrupt(store: BlobDirectory, hasher: Hasher, tmp_path: Path) -> None:
    path = tmp_path / "image.raw"
    path.write_bytes(DATA)

    def cut(_: int) -> None:
        with path.open("r+b") as file:
            file.truncate(BLOCK)

    with (
        path.open("rb", buffering=0) as source,
        store.stage("blob", "job", len(DATA)) as staging,
        pytest.raises(Corrupt, match=f"shrank while it was read: {BLOCK} of {len(DATA)} bytes"),
    ):
        copy_blob(source, len(DATA), staging, hasher, cut, never)
    assert not is_visible(store, "blob")


@pytest.mark.parametrize("size", [0, BLOCK, len(DATA) - 1])
def test_a_source_that_grows_is_corrupt(store: BlobDirectory, hasher: Hasher, size: int) -> None:
    error = failure(store, hasher, io.BytesIO(DATA), size)
    assert type(error) is Corrupt
    assert f"the source grew while it was read: more than {size} bytes" in error.message


def test_a_source_that_cannot_be_read_is_unavailable(store: BlobDirectory, hasher: Hasher) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    error = failure(store, hasher, Broken(), 10)
    assert type(error) is Unavailable
    assert "Input/output error" in error.message


def test_a_cancel_is_heard_between_blocks(store: BlobDirectory, hasher: Hasher) -> None:
    done: list[int] = []
    with (
        store.stage("blob", "job", len(DATA)) as staging,
        pytest.raises(Cancelled, match=f"after {2 * BLOCK} of {len(DATA)} bytes"),
    ):
        copy_blob(io.BytesIO(DATA), len(DATA), staging, hasher, done.append, lambda: len(done) == 2)
    assert not is_visible(store, "blob")
