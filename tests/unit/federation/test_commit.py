"""The commit builder alone: the rule in its second place."""

import pytest

from federation.commit import MAX_OPERATIONS, CatalogState, Origin, build_commit, seal_tree
from federation.head import FEDERATION, PRIVATE, CatalogId, unseal_bytes
from federation.tree import Tree
from fedmarket.errors import NotHome, TooLarge
from tests.support.federation import key_of

PREFIX = "/fedmarket/1/catalog/100/"


def origin(catalog: CatalogId = FEDERATION) -> Origin:
    return Origin(100, catalog, PREFIX, key_of(100), "agent")


def state(records: dict[str, bytes] | None = None) -> CatalogState:
    tree = Tree.of(records or {})
    return CatalogState(seal_tree(origin(), (3, 7), None, tree, {"app": 5}, 0), tree, revision=42)


@pytest.mark.parametrize(
    "key", ["app/100", "market/101000000", "zone/0", "zone/100000100", "x-new-kind/7", "image/0", "app/0", "template/5"]
)
@pytest.mark.parametrize("value", [b"put", None], ids=["put", "delete"])
def test_a_key_of_another_home_is_refused(key: str, value: bytes | None) -> None:
    with pytest.raises(NotHome, match="zone 100 writes only its own catalog"):
        build_commit(origin(), state(), {key: value}, {}, 0)


@pytest.mark.parametrize(
    "key", ["", "head", "head/100000100", "lost/100000100", "../0/app/100", "app/../../0/head", "app"]
)
def test_what_is_no_record_key_is_refused_in_either_catalog(key: str) -> None:
    for catalog in (FEDERATION, PRIVATE):
        with pytest.raises(NotHome):
            build_commit(origin(catalog), state(), {key: b"x"}, {}, 0)


def test_one_foreign_key_among_good_ones_refuses_them_all() -> None:
    with pytest.raises(NotHome):
        build_commit(origin(), state(), {"app/100000100": b"good", "app/100": b"foreign"}, {}, 0)


def test_the_transaction_compares_the_head_that_was_seen_and_touches_its_own_prefix_only() -> None:
    seen = state({"app/100000100": b"old", "app/100000101": b"gone"})
    commit = build_commit(origin(), seen, {"app/100000100": b"new", "app/100000101": None}, {"app": 6}, 5)
    txn = commit.txn
    assert txn.guards == {PREFIX + "head": 42}
    assert txn.not_newer == {PREFIX + "app/100000100": 42, PREFIX + "app/100000101": 42}
    assert set(txn.puts) == {PREFIX + "head", PREFIX + "app/100000100"}
    assert list(txn.deletes) == [PREFIX + "app/100000101"]
    assert txn.read_on_failure == PREFIX + "head"


def test_the_next_head_follows_the_one_that_was_seen_and_describes_the_records() -> None:
    seen = state({"app/100000100": b"old"})
    commit = build_commit(origin(), seen, {"app/100000101": b"new"}, {"app": 6}, 5)
    written = unseal_bytes(commit.txn.puts[PREFIX + "head"], key_of(100).public).head
    expected = Tree.of({"app/100000100": b"old", "app/100000101": b"new"})
    assert (written.epoch, written.seq, written.prev) == (3, 8, seen.head.hash)
    assert (written.root, written.count) == (expected.root, 2)
    assert (written.zone, written.catalog, written.next_ids) == (100, FEDERATION, {"app": 6})


def test_more_than_one_transaction_takes_is_refused() -> None:
    fitting = {f"app/{100_000_100 + n}": b"x" for n in range(MAX_OPERATIONS - 1)}
    assert len(build_commit(origin(), state(), fitting, {}, 0).txn.puts) == MAX_OPERATIONS
    with pytest.raises(TooLarge):
        build_commit(origin(), state(), fitting | {"app/100000500": b"x"}, {}, 0)
    with pytest.raises(TooLarge):
        build_commit(origin(), state(), {f"app/{100_000_100 + n}": b"x" * 200_000 for n in range(6)}, {}, 0)
