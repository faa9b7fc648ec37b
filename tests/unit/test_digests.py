import hashlib
import threading
from contextlib import suppress
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmarket.digests import MAX_PENDING, Digests, Hasher


def digests_of(*blocks: bytes) -> Digests:
    with Hasher() as hasher:
        for block in blocks:
            hasher.update(block)
        return hasher.finish()


def test_nothing_has_the_known_digests() -> None:
    digests = digests_of()
    assert digests.sha256_hex == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digests.md5_hex == "d41d8cd98f00b204e9800998ecf8427e"
    assert digests.size == 0


@settings(deadline=None)
@given(st.lists(st.binary(max_size=5000), max_size=30))
def test_blocks_are_hashed_in_order_however_they_are_cut(blocks: list[bytes]) -> None:
    data = b"".join(blocks)
    expected = Digests(hashlib.sha256(data).digest(), hashlib.md5(data).digest(), len(data))
    assert digests_of(*blocks) == expected


def test_more_blocks_than_may_wait_are_all_hashed() -> None:
    blocks = [bytes([number]) * (1 << 20) for number in range(3 * MAX_PENDING)]
    assert digests_of(*blocks).sha256 == hashlib.sha256(b"".join(blocks)).digest()


def test_finish_can_be_asked_again_and_goes_on() -> None:
    with Hasher() as hasher:
        hasher.update(b"a")
        assert hasher.finish() == hasher.finish() == digests_of(b"a")
        hasher.update(b"b")
        assert hasher.finish() == digests_of(b"ab")


def test_digests_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(digests_of(b"a"), "md5", b"")  # noqa: B010 - a plain assignment would not pass mypy


def test_the_threads_end_with_the_context_even_after_an_error() -> None:
    before = threading.active_count()
    with suppress(ZeroDivisionError), Hasher() as hasher:
        hasher.update(b"a" * (1 << 20))
        raise ZeroDivisionError
    assert threading.active_count() == before
