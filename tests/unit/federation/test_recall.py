"""A catalog as messages and back: nothing is believed that its own zone did not sign, whole."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from federation.commit import MAX_RECORD, Origin, seal_tree
from federation.head import FEDERATION, PRIVATE, SealedHead, seal
from federation.recall import Copy, from_bytes, gather, messages_of, to_bytes
from federation.records import encode
from federation.tree import Tree
from fedmarket.errors import Corrupt
from fedmarket.pb.fedmarket.v1.peer_pb2 import Commit, Entry
from tests.support.federation import key_of, market

ORIGIN = Origin(0, FEDERATION, "/c/", key_of(0), "agent")
KEY = key_of(0).public


def catalog(records: dict[str, bytes], origin: Origin = ORIGIN) -> Copy:
    tree = Tree.of(records)
    return Copy(seal_tree(origin, (1, 7), None, tree, {"market": 200}, 0), tree)


def messages(copy: Copy) -> list[Commit]:
    return list(messages_of(copy.head, copy.tree))


RECORDS = {f"market/{n}": encode(market(f"m{n}")) for n in range(100, 160)}


def test_a_catalog_comes_back_as_it_was() -> None:
    sent = catalog(RECORDS)
    back = gather(messages(sent), 0, KEY)
    assert back.head.hash == sent.head.hash
    assert dict(back.tree.items()) == RECORDS


def test_an_empty_catalog_comes_back_too() -> None:
    assert gather(messages(catalog({})), 0, KEY).tree.count == 0


def test_a_large_catalog_goes_in_messages_that_a_stream_takes() -> None:
    large = {f"market/{n}": bytes([n]) * MAX_RECORD for n in range(100, 120)}
    sent = messages(catalog(large))
    assert len(sent) > 4
    assert all(message.ByteSize() < 2 << 20 for message in sent)
    assert [message.HasField("head") for message in sent] == [True] + [False] * (len(sent) - 1)
    assert dict(gather(sent, 0, KEY).tree.items()) == large


def test_a_file_of_messages_is_read_as_it_was_written() -> None:
    sent = messages(catalog(RECORDS))
    assert list(from_bytes(b"".join(to_bytes(sent)))) == sent


@pytest.mark.parametrize("content", [b"\xff" * 20, b"a text, which is no catalog at all", b"\x80", b"\x05abc"])
def test_what_is_no_file_of_messages_is_corrupt(content: bytes) -> None:
    with pytest.raises(Corrupt, match="zone export"):
        gather(from_bytes(content), 0, KEY)


def test_a_file_that_was_cut_anywhere_is_corrupt() -> None:
    content = b"".join(to_bytes(messages(catalog({f"market/{n}": b"x" * 60_000 for n in range(100, 140)}))))
    for length in (0, 1, 10, 100, len(content) // 2, len(content) - 1):
        with pytest.raises(Corrupt):
            gather(from_bytes(content[:length]), 0, KEY)


def resigned(copy: Copy, **change: object) -> SealedHead:
    return seal(replace(copy.head.head, **change), key_of(0))  # type: ignore[arg-type]  # whatever the test changes


SPOILED: dict[str, Callable[[Copy], list[Commit]]] = {
    "another key": lambda c: messages(catalog(dict(c.tree.items()), replace(ORIGIN, key=key_of(1)))),
    "another zone": lambda c: list(messages_of(resigned(c, zone=5), c.tree)),
    "the private catalog": lambda c: list(messages_of(resigned(c, catalog=PRIVATE), c.tree)),
    "a record too few": lambda c: list(messages_of(c.head, c.tree.apply({}, ["market/100"]))),
    "a record too many": lambda c: list(messages_of(c.head, c.tree.apply({"market/999": b"x"}))),
    "a record changed": lambda c: list(messages_of(c.head, c.tree.apply({"market/100": b"x"}))),
    "a record of another zone": lambda c: messages(catalog({"market/1000100": b"x"})),
    "a key outside the grammar": lambda c: [*messages(catalog({})), Commit(puts=[Entry(key="head", value=b"x")])],
    "a record that is too large": lambda c: messages(catalog({"market/100": b"x" * (MAX_RECORD + 1)})),
    "no head": lambda c: [Commit(puts=[Entry(key="market/100", value=b"x")])],
    "nothing": lambda c: [],
}


@pytest.mark.parametrize("how", SPOILED)
def test_nothing_is_taken_with(how: str) -> None:
    with pytest.raises(Corrupt, match="catalog of zone 0 cannot be used"):
        gather(SPOILED[how](catalog(RECORDS)), 0, KEY)
