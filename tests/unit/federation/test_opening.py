"""Opening a zone's catalog: the first time, again, and on a store that is not what this zone left."""

from pathlib import Path

import pytest

from federation.commit import Origin
from federation.head import FEDERATION, Head, unseal_bytes
from federation.highwater import HighWater, initialise
from federation.keys import HEAD, Keyspace
from federation.memory import MemoryStore
from federation.opening import claim_etcd, open_catalog
from federation.store import Txn
from federation.tree import Tree
from fedmarket.errors import ConfigError
from tests.support.federation import Zone, key_of

KEYSPACE = Keyspace("/fedmarket/1/", 0)
ORIGIN = Origin(0, FEDERATION, KEYSPACE.own, key_of(0), "agent-0")


@pytest.fixture
def high_water(tmp_path: Path) -> HighWater:
    initialise(tmp_path / "highwater")
    return HighWater(tmp_path / "highwater")


async def stored_head(store: MemoryStore) -> Head:
    found = await store.get(KEYSPACE.own + HEAD)
    assert found is not None
    return unseal_bytes(found.value, ORIGIN.key.public).head


async def test_a_new_zone_begins_epoch_1_with_an_empty_catalog(high_water: HighWater) -> None:
    store = MemoryStore()
    head = await open_catalog(store, ORIGIN, high_water, 5)
    assert (head.pair, head.count, head.root, head.time_ms) == ((1, 1), 0, Tree.empty().root, 5)
    assert await stored_head(store) == head


async def test_a_catalog_that_is_there_is_opened_as_it_is(high_water: HighWater) -> None:
    async with Zone(0) as zone:
        await zone.create("m")
    high_water.note(await stored_head(zone.store))
    revision = zone.store.revision
    head = await open_catalog(zone.store, ORIGIN, high_water, 0)
    assert head.pair == (1, 2)
    assert zone.store.revision == revision


async def test_an_empty_store_of_a_zone_that_had_committed_is_refused(high_water: HighWater) -> None:
    async with Zone(0) as zone:
        await zone.create("m")
    high_water.note(await stored_head(zone.store))
    empty = MemoryStore()
    with pytest.raises(ConfigError, match="reached commit 1/2"):
        await open_catalog(empty, ORIGIN, high_water, 0)
    assert await empty.get(KEYSPACE.own + HEAD) is None


async def test_a_catalog_that_another_key_signed_is_refused_and_left_alone(high_water: HighWater) -> None:
    async with Zone(0) as zone:
        await zone.create("m")
    revision = zone.store.revision
    stranger = Origin(0, FEDERATION, KEYSPACE.own, key_of(7), "stranger")
    with pytest.raises(ConfigError, match="another key"):
        await open_catalog(zone.store, stranger, high_water, 0)
    assert zone.store.revision == revision


async def test_a_store_put_back_from_a_backup_goes_on_in_a_new_epoch_far_above_every_id(high_water: HighWater) -> None:
    async with Zone(0) as zone:
        await zone.create("in the backup")
        backup = await zone.store.snapshot("")
        for n in range(5):
            await zone.create(f"lost {n}")
    lost = await stored_head(zone.store)
    high_water.note(lost)
    store = MemoryStore()
    await store.txn(Txn({}, puts={item.key: item.value for item in backup.items}))
    head = await open_catalog(store, ORIGIN, high_water, 0)
    assert head.pair == (2, 1)
    assert head.next_ids["market"] == lost.next_ids["market"] + 10_000
    assert head.count == 1
    async with Zone(0, store) as again:
        assert await again.create("after") == 10_106
        assert set(again.own.tree.items()) > {(i.key.removeprefix(KEYSPACE.own), i.value) for i in backup.items[1:]}


async def test_an_embedded_etcd_is_claimed_once_and_refused_to_another_zone() -> None:
    store = MemoryStore()
    await claim_etcd(store, KEYSPACE, embedded=True)
    await claim_etcd(store, KEYSPACE, embedded=True)
    for embedded in (True, False):
        with pytest.raises(ConfigError, match="belongs to zone 0"):
            await claim_etcd(store, Keyspace("/fedmarket/1/", 100), embedded=embedded)


async def test_an_etcd_that_its_zone_no_longer_embeds_is_free_for_others() -> None:
    store = MemoryStore()
    await claim_etcd(store, KEYSPACE, embedded=True)
    await claim_etcd(store, KEYSPACE, embedded=False)
    await claim_etcd(store, Keyspace("/fedmarket/1/", 100), embedded=False)
    assert await store.get(KEYSPACE.owner) is None
