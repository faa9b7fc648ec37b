"""The Merkle tree: what it is of, and that nobody's copy ever changes. Its numbers are held by test_vectors."""

from hashlib import sha256

import pytest

from federation.tree import BUCKETS, EMPTY_BUCKET, Tree, apply_to_bucket, bucket_digest, bucket_index
from tests.support.oracle import root_of

RECORDS = {f"market/{100 + n}": f"record {n}".encode() for n in range(500)}


def test_a_tree_without_records_has_256_empty_buckets() -> None:
    tree = Tree.empty()
    assert tree.digests == [EMPTY_BUCKET] * BUCKETS
    assert tree.root == sha256(EMPTY_BUCKET * BUCKETS).digest() == root_of({})
    assert tree.count == 0
    assert dict(tree.items()) == {}


def test_a_tree_depends_on_its_records_and_not_on_how_they_came() -> None:
    at_once = Tree.of(RECORDS)
    one_by_one = Tree.empty()
    for key in sorted(RECORDS, reverse=True):
        one_by_one = one_by_one.apply({key: b"before"}).apply({key: RECORDS[key]})
    assert one_by_one.root == at_once.root == root_of(RECORDS)
    assert one_by_one.count == at_once.count == len(RECORDS)
    assert dict(one_by_one.items()) == RECORDS


def test_applying_a_change_leaves_the_tree_it_was_applied_to_as_it_was() -> None:
    before = Tree.of(RECORDS)
    root = before.root
    after = before.apply({"market/100": b"changed", "market/7": b"new"}, ["market/101"])
    assert before.root == root
    assert dict(before.items()) == RECORDS
    expected = {**RECORDS, "market/100": b"changed", "market/7": b"new"}
    del expected["market/101"]
    assert dict(after.items()) == expected
    assert (after.root, after.count) == (root_of(expected), len(expected))


def test_untouched_buckets_are_shared() -> None:
    before = Tree.of(RECORDS)
    after = before.apply({"market/100": b"changed"})
    changed = [index for index in range(BUCKETS) if after.bucket(index) is not before.bucket(index)]
    assert changed == [bucket_index("market/100")]


def test_deleting_what_is_not_there_changes_nothing() -> None:
    assert Tree.of(RECORDS).apply({}, ["market/1"]).root == Tree.of(RECORDS).root


def test_no_changes_give_the_very_same_tree() -> None:
    tree = Tree.of(RECORDS)
    assert tree.apply({}) is tree


def test_a_key_that_is_put_and_deleted_is_put() -> None:
    assert Tree.empty().apply({"market/100": b"x"}, ["market/100"]).get("market/100") == b"x"


def test_a_record_moved_to_another_key_or_value_changes_the_root() -> None:
    roots = {Tree.of(records).root for records in ({"a/1": b"x"}, {"a/2": b"x"}, {"a/1": b"y"}, {"a/1": b""}, {})}
    assert len(roots) == 5


def test_changed_keys_are_those_that_were_put_changed_or_deleted() -> None:
    before = Tree.of(RECORDS)
    after = before.apply(
        {"market/100": b"changed", "market/7": b"new", "market/102": RECORDS["market/102"]}, ["market/101"]
    )
    assert after.changed_keys(before) == before.changed_keys(after) == {"market/100", "market/7", "market/101"}
    assert before.changed_keys(before) == set()


@pytest.mark.parametrize("index", [0, 97, 255])
def test_a_tree_with_a_bucket_exchanged_has_the_digest_of_that_bucket(index: int) -> None:
    tree = Tree.of(RECORDS)
    bucket = apply_to_bucket(tree.bucket(index), {}, list(tree.bucket(index)))
    after = tree.replace_buckets({index: bucket})
    assert after.digests[index] == bucket_digest(bucket) == EMPTY_BUCKET
    assert after.count == len(RECORDS) - len(tree.bucket(index))
