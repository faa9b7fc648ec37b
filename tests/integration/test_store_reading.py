"""What every store does when it is read, whether it is etcd or in memory."""

from federation.store import KeyValue, Store, Txn
from tests.support.stores import PAGE_KEYS, put


async def test_a_key_that_is_not_there_reads_as_none(store: Store, prefix: str) -> None:
    assert await store.get(prefix + "missing") is None


async def test_a_key_reads_as_it_was_last_put(store: Store, prefix: str) -> None:
    await put(store, prefix + "a", b"old")
    revision = await put(store, prefix + "a", b"new\x00\xff")
    assert await store.get(prefix + "a") == KeyValue(prefix + "a", b"new\x00\xff", revision)


async def test_an_empty_value_is_a_value(store: Store, prefix: str) -> None:
    revision = await put(store, prefix + "a", b"")
    assert await store.get(prefix + "a") == KeyValue(prefix + "a", b"", revision)


async def test_keys_are_any_text(store: Store, prefix: str) -> None:
    key = prefix + "größe/東京/\U0001f5c4"
    revision = await put(store, key)
    assert (await store.snapshot(prefix)).items == [KeyValue(key, b"v", revision)]


async def test_a_snapshot_of_nothing_has_a_revision_from_which_a_watch_can_go_on(store: Store, prefix: str) -> None:
    before = await put(store, "/elsewhere" + prefix)
    snapshot = await store.snapshot(prefix)
    assert list(snapshot.items) == []
    assert snapshot.revision >= before


async def test_a_snapshot_of_more_than_a_page_is_whole_and_in_order(store: Store, prefix: str) -> None:
    keys = [f"{prefix}{number:04}" for number in range(5 * PAGE_KEYS + 1)]
    for start in range(0, len(keys), 100):
        await store.txn(Txn({}, puts=dict.fromkeys(keys[start : start + 100], b"v")))
    snapshot = await store.snapshot(prefix)
    assert [item.key for item in snapshot.items] == keys


async def test_a_snapshot_of_exactly_one_page_is_whole(store: Store, prefix: str) -> None:
    keys = [f"{prefix}{number:04}" for number in range(PAGE_KEYS)]
    await store.txn(Txn({}, puts=dict.fromkeys(keys, b"v")))
    assert [item.key for item in (await store.snapshot(prefix)).items] == keys


async def test_a_snapshot_has_only_what_begins_with_the_prefix(store: Store, prefix: str) -> None:
    for key in ("a", "b/", "b/1", "b/2", "b0", "c"):
        await put(store, prefix + key)
    snapshot = await store.snapshot(prefix + "b/")
    assert [item.key.removeprefix(prefix) for item in snapshot.items] == ["b/", "b/1", "b/2"]


async def test_a_snapshot_of_the_empty_prefix_is_the_whole_store(store: Store, prefix: str) -> None:
    revision = await put(store, prefix + "a")
    assert KeyValue(prefix + "a", b"v", revision) in (await store.snapshot("")).items


async def test_a_snapshot_has_the_revisions_of_its_keys_and_its_own(store: Store, prefix: str) -> None:
    first = await put(store, prefix + "a")
    second = await put(store, prefix + "b")
    snapshot = await store.snapshot(prefix)
    assert [item.mod_revision for item in snapshot.items] == [first, second]
    assert snapshot.revision >= second
