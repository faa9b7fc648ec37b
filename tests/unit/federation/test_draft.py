"""A change in the making: ids, what it sees of the same commit, and that a dropped one leaves no trace."""

import pytest

from federation.draft import Draft, IdRange
from federation.head import FEDERATION, PRIVATE, CatalogId
from federation.index import Index
from federation.records import Record, encode
from federation.tree import Tree
from fedmarket.errors import TooLarge
from fedmarket.pb.fedmarket.v1.record_pb2 import AppRecord, DatastoreRecord, MarketRecord
from tests.support.federation import market


def draft_of(
    records: dict[str, bytes], next_ids: dict[str, int] | None = None, *, zone: int = 0, catalog: CatalogId = FEDERATION
) -> Draft:
    tree, index = Tree.of(records), Index()
    index.update(tree, records)
    return Draft(tree, index, next_ids or {}, IdRange(zone, catalog))


def found(draft: Draft, record_id: int) -> Record[MarketRecord]:
    record = draft.get(MarketRecord, record_id)
    assert record is not None
    return record


@pytest.mark.parametrize(
    ("zone", "catalog", "first"),
    [(0, FEDERATION, 100), (100, FEDERATION, 100_000_100), (0, PRIVATE, 500_000), (2146, PRIVATE, 2_146_500_000)],
)
def test_ids_begin_where_the_range_of_the_catalog_does(zone: int, catalog: CatalogId, first: int) -> None:
    draft = draft_of({}, zone=zone, catalog=catalog)
    assert [draft.create(MarketRecord(name=name)) for name in "ab"] == [first, first + 1]


def test_kinds_that_stay_in_the_zone_count_from_0() -> None:
    draft = draft_of({}, zone=100, catalog=PRIVATE)
    assert draft.create(DatastoreRecord(name="d")) == 0
    assert draft.create(MarketRecord(name="m")) == 100_500_000


def test_each_kind_counts_for_itself() -> None:
    draft = draft_of({}, {"market": 7000})
    assert (draft.create(MarketRecord(name="m")), draft.create(AppRecord(name="a"))) == (7000, 100)


def test_a_range_that_is_used_up_is_an_error_and_gives_no_id_of_another_range() -> None:
    draft = draft_of({}, {"market": 499_999})
    assert draft.create(MarketRecord(name="last")) == 499_999
    with pytest.raises(TooLarge, match="used up"):
        draft.create(MarketRecord(name="one too many"))


def test_a_change_that_is_dropped_gives_its_ids_back_and_leaves_no_record() -> None:
    draft = draft_of({})
    draft.create(MarketRecord(name="kept"))
    assert draft.keep()
    draft.create(MarketRecord(name="dropped"))
    draft.drop()
    assert draft.named(MarketRecord, "dropped") == []
    assert draft.create(MarketRecord(name="next")) == 101
    assert draft.keep()
    assert sorted(draft.changes) == ["market/100", "market/101"]
    assert draft.next_ids == {"market": 102}


def test_what_was_not_kept_is_not_in_the_commit() -> None:
    draft = draft_of({})
    draft.create(MarketRecord(name="m"))
    assert draft.changes == {}
    assert draft.next_ids == {}


def test_every_new_record_has_a_uid_of_its_own_and_keeps_it() -> None:
    draft = draft_of({})
    first, second = (draft.create(MarketRecord(name="same")) for _ in range(2))
    uid = found(draft, first).uid
    assert len(bytes.fromhex(uid)) == 16
    assert uid != found(draft, second).uid
    record = found(draft, first)
    record.message.name = "other"
    draft.put(first, record)
    assert (found(draft, first).uid, found(draft, first).message.name) == (uid, "other")


def test_a_change_sees_records_as_the_same_commit_has_left_them() -> None:
    draft = draft_of({"market/100": encode(market("a")), "market/101": encode(market("b"))})
    draft.delete(MarketRecord, 100)
    renamed = found(draft, 101)
    renamed.message.name = "a"
    draft.put(101, renamed)
    assert draft.keep()
    assert draft.get(MarketRecord, 100) is None
    assert [record_id for record_id, _ in draft.named(MarketRecord, "a")] == [101]
    assert draft.named(MarketRecord, "b") == []


def test_children_are_those_of_the_catalog_and_of_the_same_commit() -> None:
    draft = draft_of({})
    mine = draft.create(AppRecord(name="mine", market_id=100))
    draft.create(AppRecord(name="of another market", market_id=101))
    assert [record_id for record_id, _ in draft.children(AppRecord, 100)] == [mine]
    draft.delete(AppRecord, mine)
    assert draft.children(AppRecord, 100) == []


def test_a_change_that_does_not_fit_beside_others_is_not_kept_and_fits_alone() -> None:
    draft = draft_of({})
    for _ in range(99):
        draft.create(MarketRecord(name="m"))
    assert draft.keep()
    draft.create(MarketRecord(name="one more"))
    assert not draft.keep()
    assert len(draft.changes) == 99


def test_a_change_that_no_commit_could_hold_is_an_error() -> None:
    draft = draft_of({})
    for _ in range(100):
        draft.create(MarketRecord(name="m"))
    with pytest.raises(TooLarge, match="100 records"):
        draft.keep()


def test_a_record_over_the_limit_is_an_error_that_names_it() -> None:
    draft = draft_of({})
    draft.create(MarketRecord(name="x" * 300_000))
    with pytest.raises(TooLarge, match=r"market/100 would be 300\d+ bytes"):
        draft.keep()
