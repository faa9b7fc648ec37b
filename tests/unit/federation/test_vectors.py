"""The formats, held against files that were made without this code."""

import json
from pathlib import Path
from typing import Any

import pytest

from federation.head import Head, seal, unseal_bytes
from federation.keys import BadKey, check_home
from federation.records import KINDS, decode, encode
from federation.tree import EMPTY_BUCKET, Tree, leaf_digest
from federation.trust.keys import PublicKey
from fedmarket.errors import Corrupt
from tests.support.federation import key_from_seed

VECTORS = Path(__file__).parents[2] / "vectors"


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


@pytest.mark.parametrize("vector", vectors("trees"), ids=lambda v: f"{v['count']}-records")
def test_tree_matches_vector(vector: dict[str, Any]) -> None:
    records = {key: bytes.fromhex(value) for key, value in vector["records"].items()}
    tree = Tree.of(records)
    assert {key: leaf_digest(key, value).hex() for key, value in records.items()} == vector["leaves"]
    digests = {str(i): d.hex() for i, d in enumerate(tree.digests) if d != EMPTY_BUCKET}
    assert digests == vector["buckets"]
    assert (tree.root.hex(), tree.count) == (vector["root"], vector["count"])


@pytest.mark.parametrize("vector", vectors("heads"), ids=["first", "second", "private"])
def test_head_matches_vector(vector: dict[str, Any]) -> None:
    fields = dict(vector["head"])
    fields |= {"root": bytes.fromhex(fields["root"]), "prev": bytes.fromhex(fields["prev"])}
    sealed = seal(Head(**fields), key_from_seed(bytes.fromhex(vector["seed"])))
    assert sealed.signed.body.hex() == vector["body"]
    assert sealed.signed.sig.hex() == vector["sig"]
    assert sealed.signed.key_id.hex() == vector["key_id"]
    assert sealed.encode().hex() == vector["signed"]
    assert sealed.hash.hex() == vector["hash"]


@pytest.mark.parametrize("vector", vectors("heads"), ids=["first", "second", "private"])
def test_head_of_vector_verifies_and_any_flipped_bit_does_not(vector: dict[str, Any]) -> None:
    key = PublicKey(bytes.fromhex(vector["public"]))
    raw = bytes.fromhex(vector["signed"])
    assert unseal_bytes(raw, key).hash.hex() == vector["hash"]
    for position in range(len(raw)):
        flipped = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
        with pytest.raises(Corrupt):
            unseal_bytes(flipped, key)


@pytest.mark.parametrize("vector", vectors("records"), ids=lambda v: v["key"])
def test_record_matches_vector(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["value"])
    record = decode(KINDS[vector["key"].split("/")[0]], raw)
    assert record.uid == vector["uid"]
    assert {name: getattr(record.message, name) for name in vector["fields"]} == vector["fields"]
    assert encode(record) == raw


@pytest.mark.parametrize(("home", "key"), vectors("keys")["of_home"])
def test_key_is_of_its_home(home: int, key: str) -> None:
    check_home(key, home)


@pytest.mark.parametrize(("home", "key"), vectors("keys")["not_of_home"])
def test_key_is_not_of_this_home(home: int, key: str) -> None:
    with pytest.raises(BadKey):
        check_home(key, home)
