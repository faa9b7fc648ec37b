"""A zone whose agent is stopped: new epochs and restores, on stores that lost all, a part, or nothing."""

import asyncio
from pathlib import Path

import pytest

from federation.commit import Origin
from federation.head import FEDERATION, PRIVATE, CatalogId, unseal_bytes
from federation.highwater import HighWater, initialise
from federation.keys import HEAD, Keyspace
from federation.memory import MemoryStore, Moment
from federation.opening import open_catalog
from federation.recall import Copy
from federation.records import encode
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import ConfigError, Refused
from tests.support.federation import Zone, key_of, market, names
from zone_agent.offline import Epoch, StoppedZone

KEYSPACE = Keyspace("/fedmarket/1/", 0)


@pytest.fixture
def high_water(tmp_path: Path) -> HighWater:
    initialise(tmp_path / "high-water")
    return HighWater(tmp_path / "high-water")


def stopped(store: MemoryStore, high_water: HighWater) -> StoppedZone:
    return StoppedZone(KEYSPACE, key_of(0), store, high_water, {})


def origin(kind: CatalogId) -> Origin:
    return Origin(0, kind, KEYSPACE.own if kind == FEDERATION else KEYSPACE.private, key_of(0), "agent")


async def lived(high_water: HighWater, markets: int = 3) -> Zone:
    """Return a zone that has ended, as its store and its high-water mark are."""
    async with Zone(0) as zone:
        await asyncio.gather(*(zone.create(f"m{n}") for n in range(markets)))
    high_water.note(await open_catalog(zone.store, origin(FEDERATION), high_water, 0))
    high_water.note(await open_catalog(zone.store, origin(PRIVATE), high_water, 0))
    return zone


def copy_of(zone: Zone) -> Copy:
    assert zone.own.state is not None
    return Copy(zone.own.state.head, zone.own.state.tree)


def of(epochs: list[Epoch], kind: CatalogId) -> Epoch:
    (one,) = [epoch for epoch in epochs if epoch.catalog == kind]
    return one


async def put(store: MemoryStore, values: dict[str, bytes]) -> None:
    await store.txn(Txn({}, puts={KEYSPACE.own + key: value for key, value in values.items()}))


async def serves(store: MemoryStore, high_water: HighWater, *, next_id: int) -> dict[str, str]:
    """Open the store as an agent does, create one more market, and return what readers see."""
    before = store.revision
    await open_catalog(store, origin(FEDERATION), high_water, 0)
    assert store.revision == before, "an agent that starts finds nothing to do"
    async with Zone(0, store) as again:
        assert await again.create("after") == next_id
        return names(again.own)


# -- a new epoch


async def test_a_zone_that_lost_everything_begins_anew_far_above_every_id(high_water: HighWater) -> None:
    old = await lived(high_water)
    store = MemoryStore()
    epochs = await stopped(store, high_water).begin_epochs()
    assert [epoch.catalog for epoch in epochs] == [PRIVATE, FEDERATION]
    assert all(epoch.head.pair == (2, 1) and epoch.head.head.count == 0 for epoch in epochs)
    assert of(epochs, FEDERATION).before == old.own.pair
    assert list((await serves(store, high_water, next_id=10_103)).values()) == ["after"]


async def test_the_mark_knows_of_the_new_epoch_before_any_agent_does(high_water: HighWater, tmp_path: Path) -> None:
    await lived(high_water)
    await stopped(MemoryStore(), high_water).begin_epochs()
    again = await stopped(MemoryStore(), HighWater(tmp_path / "high-water")).begin_epochs()
    assert {epoch.head.pair for epoch in again} == {(3, 1)}
    assert of(again, FEDERATION).head.head.next_ids["market"] == 20_103


async def test_a_zone_that_never_committed_anything_needs_none(high_water: HighWater) -> None:
    store = MemoryStore()
    assert await stopped(store, high_water).begin_epochs() == []
    assert store.revision == 1


async def test_a_new_epoch_over_what_is_stored_keeps_it(high_water: HighWater) -> None:
    zone = await lived(high_water)
    epoch = of(await stopped(zone.store, high_water).begin_epochs(), FEDERATION)
    assert (epoch.head.pair, epoch.head.head.count, epoch.head.head.prev) == ((2, 1), 3, copy_of(zone).head.hash)
    assert len(await serves(zone.store, high_water, next_id=10_103)) == 4


async def test_no_new_epoch_begins_over_records_that_are_not_those_of_their_head(high_water: HighWater) -> None:
    zone = await lived(high_water)
    await put(zone.store, {"market/100": encode(market("by hand"))})
    revision = zone.store.revision
    with pytest.raises(Refused, match="zone repair"):
        await stopped(zone.store, high_water).begin_epochs()
    assert zone.store.revision == revision


async def test_another_keys_catalog_is_left_alone(high_water: HighWater) -> None:
    zone = await lived(high_water)
    stranger = StoppedZone(KEYSPACE, key_of(7), zone.store, high_water, {})
    revision = zone.store.revision
    for work in (stranger.begin_epochs(), stranger.restore(copy_of(zone))):
        with pytest.raises(ConfigError, match="another key"):
            await work
    assert zone.store.revision == revision


# -- a restore


async def test_a_restored_zone_has_its_records_back_and_gives_no_id_out_twice(high_water: HighWater) -> None:
    zone = await lived(high_water)
    store = MemoryStore()
    epochs = await stopped(store, high_water).restore(copy_of(zone))
    assert of(epochs, PRIVATE).head.head.count == 0
    assert of(epochs, FEDERATION).head.head.prev == copy_of(zone).head.hash
    shown = await serves(store, high_water, next_id=10_103)
    assert set(shown.values()) == {"m0", "m1", "m2", "after"}


async def test_ids_go_on_above_the_mark_where_the_copy_is_old(high_water: HighWater) -> None:
    async with Zone(0) as zone:
        await zone.create("in the copy")
        old = copy_of(zone)
        for n in range(5):
            await zone.create(f"later {n}")
    high_water.note(copy_of(zone).head.head)
    store = MemoryStore()
    epoch = of(await stopped(store, high_water).restore(old), FEDERATION)
    assert epoch.before == copy_of(zone).head.pair
    assert set((await serves(store, high_water, next_id=10_106)).values()) == {"in the copy", "after"}


async def test_a_restore_that_was_interrupted_is_refused_to_an_agent_and_can_be_run_again(
    high_water: HighWater,
) -> None:
    zone = await lived(high_water, markets=250)
    left = 3  # the private catalog's, and two of the three of the federated one

    def cut(txn: Txn, moment: Moment) -> None:
        nonlocal left
        if moment == "before":
            if left == 0:
                raise StoreUnavailable("etcd does not answer: try again")
            left -= 1

    store = MemoryStore(cut)
    with pytest.raises(StoreUnavailable):
        await stopped(store, high_water).restore(copy_of(zone))
    assert len((await store.snapshot(KEYSPACE.own)).items) == 198
    with pytest.raises(ConfigError, match=r"zone restore.*zone init --new-epoch"):
        await open_catalog(store, origin(FEDERATION), high_water, 0)
    left = 100
    epochs = await stopped(store, high_water).restore(copy_of(zone))
    assert [epoch.catalog for epoch in epochs] == [FEDERATION]
    assert len(await serves(store, high_water, next_id=10_350)) == 251


async def test_after_a_restore_that_was_interrupted_a_zone_can_also_begin_with_nothing(high_water: HighWater) -> None:
    zone = await lived(high_water)
    store = MemoryStore()
    await put(store, {f"market/{n}": b"x" for n in range(100, 180)})
    assert of(await stopped(store, high_water).begin_epochs(), FEDERATION).head.head.count == 0
    assert copy_of(zone).tree.count == 3
    assert len(await serves(store, high_water, next_id=10_103)) == 1


async def test_a_store_that_is_not_older_than_the_copy_is_left_alone(high_water: HighWater) -> None:
    async with Zone(0) as zone:
        await zone.create("one")
        old = copy_of(zone)
        await zone.create("two")
        same = copy_of(zone)
    for copy in (old, same):
        revision = zone.store.revision
        with pytest.raises(Refused, match="not newer"):
            await stopped(zone.store, high_water).restore(copy)
        assert zone.store.revision == revision


async def test_an_older_store_and_one_that_is_damaged_are_brought_to_the_copy(high_water: HighWater) -> None:
    async with Zone(0) as zone:
        await zone.create("one")
        backup = await zone.store.snapshot(KEYSPACE.own)
        await zone.create("two")
        await zone.rename(100, "first")
    high_water.note(copy_of(zone).head.head)
    older = MemoryStore()
    await older.txn(Txn({}, puts={item.key: item.value for item in backup.items}))
    damaged, headless = MemoryStore(), MemoryStore()
    for store in (damaged, headless):
        await store.txn(Txn({}, puts={i.key: i.value for i in (await zone.store.snapshot(KEYSPACE.own)).items}))
    await put(damaged, {"market/101": encode(market("by hand")), "market/4711": b"x"})
    await put(headless, {HEAD: b"spoiled"})
    for store in (older, damaged, headless):
        mark = high_water.mark(FEDERATION)
        assert mark is not None
        epoch = of(await stopped(store, high_water).restore(copy_of(zone)), FEDERATION)
        assert epoch.head.pair == (mark.epoch + 1, 1)
        stored = await store.get(KEYSPACE.own + HEAD)
        assert stored is not None
        assert unseal_bytes(stored.value, key_of(0).public).hash == epoch.head.hash
        shown = await serves(store, high_water, next_id=mark.next_ids["market"] + 10_000)
        assert set(shown.values()) == {"first", "two", "after"}


async def test_whoever_lost_the_claim_writes_nothing_more(high_water: HighWater) -> None:
    zone = await lived(high_water)
    store = MemoryStore()
    claimed = StoppedZone(KEYSPACE, key_of(0), store, high_water, {KEYSPACE.duty("maintenance"): 5})
    with pytest.raises(Refused, match="meanwhile"):
        await claimed.restore(copy_of(zone))
    assert store.revision == 1
