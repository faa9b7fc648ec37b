"""Scrubbing finds what was changed by hand in a store, also where no watch told of it; good catalogs are left alone."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from federation.catalog import Catalog
from federation.head import FEDERATION, PRIVATE, seal
from federation.keys import HEAD, Keyspace
from federation.link.sink import State
from federation.lost import DELETE_PAGE, forget_replica, lost_records
from federation.memory import MemoryStore
from federation.records import encode
from federation.scrub import Check, Scrubber, Subject, Verdict, examine
from federation.store import KeyValue, Txn
from fedmarket.errors import Refused
from tests.support.federation import Zone, forge, key_of, market
from tests.support.waiting import eventually

CATCH_UP_SECONDS = 5.0


async def put(store: MemoryStore, key: str, value: bytes) -> None:
    """Write as somebody with etcdctl does."""
    assert (await store.txn(Txn({}, puts={key: value}))).succeeded


async def delete(store: MemoryStore, key: str) -> None:
    assert (await store.txn(Txn({}, deletes=[key]))).succeeded


def rot(store: MemoryStore, key: str, value: bytes | None) -> None:
    """Change what lies in the store so that no watch tells, as a disk may."""
    if value is None:
        del store._items[key]
    else:
        revision = store._items[key].mod_revision if key in store._items else 1
        store._items[key] = KeyValue(key, value, revision)


async def flipped(store: MemoryStore, key: str) -> bytes:
    stored = await store.get(key)
    assert stored is not None
    return stored.value[:-1] + bytes([stored.value[-1] ^ 1])


def own(zone: Zone) -> Subject:
    return Subject(zone.own, FEDERATION, zone.key.public)


def replica(zone: Zone, home: Zone) -> Subject:
    return Subject(zone.replicas[home.zone], FEDERATION, home.key.public)


def scrubber(zone: Zone, *subjects: Subject) -> Scrubber:
    return Scrubber(zone.store, lambda: subjects, CATCH_UP_SECONDS, clock=lambda: 7.0)


async def scrub(scrubber: Scrubber) -> Check:
    (check,) = [check async for check in scrubber.scrub(scrubber.subjects())]
    return check


@asynccontextmanager
async def pair() -> AsyncGenerator[tuple[Zone, Zone], None]:
    """Two zones, of which the second follows the first, that has two markets."""
    async with Zone(0) as home, Zone(100) as here:
        here.follow(home)
        await home.create("a")
        await home.create("b")
        await here.caught_up_with(home)
        await eventually(lambda: here.links[0].status.state is State.TAIL)
        yield home, here


async def test_a_catalog_that_is_as_its_head_says_is_whole() -> None:
    async with pair() as (home, here):
        scrubs = scrubber(here, own(here), replica(here, home))
        checks = [check async for check in scrubs.scrub(scrubs.subjects())]

        assert [(c.verdict, c.count, c.differs) for c in checks] == [(Verdict.OK, 0, ()), (Verdict.OK, 2, ())]
        assert checks[1].head is not None
        assert checks[1].head.pair == home.own.pair
        assert (scrubs.summary.scrubs, scrubs.summary.faults, scrubs.summary.repairs) == (1, 0, 0)
        assert scrubs.summary.last_time == 7.0
        assert scrubs.summary.last[here.keyspace.own] == checks[0]


async def test_a_replica_of_which_nothing_was_stored_yet_is_empty() -> None:
    async with Zone(100) as here:
        nothing = Subject(
            Catalog(0, here.keyspace.replica(0), key_of(0).public, own=False), FEDERATION, key_of(0).public
        )
        assert (await examine(here.store, nothing, CATCH_UP_SECONDS)).verdict is Verdict.EMPTY


# -- replicas


@pytest.mark.parametrize("damage", ["flipped", "removed", "extra"])
@pytest.mark.parametrize("told", [True, False], ids=["the watch tells", "no watch tells"])
async def test_damage_of_a_replica_is_found_and_what_differs_is_fetched_again(damage: str, told: bool) -> None:
    async with pair() as (home, here):
        key = here.keyspace.replica(0) + ("market/102" if damage == "extra" else "market/100")
        value = {"removed": None, "extra": b"x"}[damage] if damage != "flipped" else await flipped(here.store, key)
        scrubs = scrubber(here, replica(here, home))
        if not told:
            rot(here.store, key, value)
        elif value is None:
            await delete(here.store, key)
        else:
            await put(here.store, key, value)

        found = await scrub(scrubs)

        if told and damage == "removed":  # which leaves no trace in the store: it could be a DIFF
            assert found.verdict in {Verdict.SYNCING, Verdict.REPAIRING}
        else:
            assert (found.verdict, found.differs) == (Verdict.REPAIRING, (key.removeprefix(here.keyspace.replica(0)),))
            assert (scrubs.summary.faults, scrubs.summary.repairs) == (0, 1)
        await eventually(lambda: scrubs.strays == told)
        async with asyncio.timeout(10):
            repaired = await scrubs.settled(found)
        assert (repaired.verdict, repaired.count) == (Verdict.OK, 2)
        assert here.replicas[0].tree.root == home.own.tree.root
        assert not here.replicas[0].syncing


async def test_damage_that_stays_is_counted_once() -> None:
    async with pair() as (home, here):
        here.cut()
        await eventually(lambda: here.links[0].status.state is State.DOWN)
        key = here.keyspace.replica(0) + "market/100"
        await put(here.store, key, await flipped(here.store, key))
        scrubs = scrubber(here, replica(here, home))

        verdicts = [(await scrub(scrubs)).verdict for _ in range(3)]

        assert verdicts == [Verdict.REPAIRING] * 3
        assert (scrubs.summary.scrubs, scrubs.summary.repairs) == (3, 1)


async def test_a_diff_that_is_being_written_is_no_damage() -> None:
    async with pair() as (home, here):
        here.cut()
        await eventually(lambda: here.links[0].status.state is State.DOWN)
        prefix = here.keyspace.replica(0)
        head = await here.store.get(prefix + HEAD)
        assert head is not None
        part_of_a_diff = {prefix + "market/101": encode(market("c")), prefix + HEAD: head.value}
        assert (await here.store.txn(Txn({prefix + HEAD: head.mod_revision}, puts=part_of_a_diff))).succeeded

        scrubs = scrubber(here, replica(here, home))

        assert (await scrub(scrubs)).verdict is Verdict.SYNCING
        assert scrubs.summary.repairs == 0


async def test_a_replica_under_a_head_of_another_key_is_an_alarm_and_can_be_forgotten() -> None:
    async with pair() as (home, here):
        here.cut()
        await eventually(lambda: here.links[0].status.state is State.DOWN)
        state = home.own.state
        assert state is not None
        await put(here.store, here.keyspace.replica(0) + HEAD, seal(state.head.head, key_of(7)).encode())

        found = await scrub(scrubber(here, replica(here, home)))

        assert (found.verdict, found.head) == (Verdict.ALARM, None)
        assert "fedmarket federation forget 0" in found.reason


# -- catalogs of our own


@pytest.mark.parametrize("damage", ["flipped", "removed", "extra"])
@pytest.mark.parametrize("told", [True, False], ids=["the watch tells", "no watch tells"])
async def test_damage_of_an_own_catalog_is_an_alarm_that_stops_changes(damage: str, told: bool) -> None:
    async with Zone(0) as zone:
        await zone.create("a")
        key = zone.keyspace.own + ("market/101" if damage == "extra" else "market/100")
        value = {"removed": None, "extra": b"x"}[damage] if damage != "flipped" else await flipped(zone.store, key)
        if not told:
            rot(zone.store, key, value)
        elif value is None:
            await delete(zone.store, key)
        else:
            await put(zone.store, key, value)
        scrubs = scrubber(zone, own(zone))

        found = await scrub(scrubs)

        assert (found.verdict, found.differs) == (Verdict.ALARM, (key.removeprefix(zone.keyspace.own),))
        assert "fedmarket zone repair" in found.reason
        assert (scrubs.summary.faults, scrubs.summary.repairs) == (1, 0)
        await eventually(lambda: bool(zone.own.fault))
        assert scrubs.strays == told
        with pytest.raises(Refused, match="zone repair"):
            await zone.create("b")
        assert zone.own.tree.get("market/100") is not None  # readers keep the last good state


async def test_an_own_catalog_without_its_head_is_an_alarm() -> None:
    async with Zone(0) as zone:
        await zone.create("a")
        rot(zone.store, zone.keyspace.own + HEAD, None)
        assert (await scrub(scrubber(zone, own(zone)))).verdict is Verdict.ALARM


async def test_an_own_head_of_another_key_is_an_alarm() -> None:
    async with Zone(0) as zone:
        await zone.create("a")
        await forge(zone, {}, signer=key_of(7))
        found = await scrub(scrubber(zone, own(zone)))
        assert (found.verdict, found.head) == (Verdict.ALARM, None)


async def test_a_head_of_another_catalog_is_an_alarm_though_the_records_match_it() -> None:
    async with Zone(0) as zone:
        state = zone.own.state
        assert state is not None
        await put(
            zone.store, zone.keyspace.own + HEAD, seal(replace(state.head.head, catalog=PRIVATE), zone.key).encode()
        )
        found = await examine(zone.store, own(zone), CATCH_UP_SECONDS)
        assert (found.verdict, found.reason.count("another catalog")) == (Verdict.ALARM, 1)


async def test_keys_that_are_no_records_are_no_damage() -> None:
    async with Zone(0) as zone:
        await put(zone.store, zone.keyspace.own + "notes", b"by hand")
        assert (await examine(zone.store, own(zone), CATCH_UP_SECONDS)).verdict is Verdict.OK


async def test_scrubs_amid_commits_see_no_damage() -> None:
    async with pair() as (home, here):
        ended = asyncio.Event()

        async def write() -> None:
            while not ended.is_set():
                await home.delete(await home.create("x"))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            verdicts = set()
            for _ in range(50):
                verdicts.add((await examine(home.store, own(home), CATCH_UP_SECONDS)).verdict)
                verdicts.add((await examine(here.store, replica(here, home), CATCH_UP_SECONDS)).verdict)
            ended.set()
        assert verdicts == {Verdict.OK}
        assert home.own.pair > (1, 50)


async def test_damage_where_another_zone_writes_is_left_to_that_zone() -> None:
    async with Zone(0) as home:
        await home.create("a")
        shared = Catalog(0, home.keyspace.own, home.key.public, own=False)
        rot(home.store, home.keyspace.own + "market/100", b"x")

        found = await examine(home.store, Subject(shared, FEDERATION, home.key.public, direct=True), CATCH_UP_SECONDS)

        assert (found.verdict, "zone 0 itself" in found.reason) == (Verdict.ALARM, True)


# -- what is kept of a peer beside its catalog


async def test_records_that_a_diff_removed_are_listed_with_their_epoch() -> None:
    async with Zone(0, ring_bytes=1) as home, Zone(100) as here:  # a ring that holds nothing: whoever was away DIFFs
        here.follow(home)
        await home.create("a")
        await home.create("b")
        await here.caught_up_with(home)
        here.cut()
        await eventually(lambda: here.links[0].status.state is State.DOWN)
        removed = home.own.tree.get("market/100")
        await home.delete(100)
        await home.create("c")
        here.heal()
        await here.caught_up_with(home)
        prefix = here.keyspace.replica(0)
        await put(here.store, f"{prefix}lost/2/gadget/9", b"of a newer version")
        await put(here.store, f"{prefix}lost/by-hand/market/1", b"")

        listed = await lost_records(here.store, here.keyspace, 0)

        assert [(lost.home, lost.epoch, lost.kind, lost.id, lost.value) for lost in listed] == [
            (0, 1, "market", 100, removed),
            (0, 2, "gadget", 9, b"of a newer version"),
        ]
        assert (await scrub(scrubber(here, replica(here, home)))).verdict is Verdict.OK  # they are no part of it


async def test_a_replica_is_forgotten_in_pages_with_its_head_first() -> None:
    store, keyspace = MemoryStore(), Keyspace("/fedmarket/1/", 0)
    for zone in (10, 100):
        for n in range(DELETE_PAGE * 2 + 50):
            await put(store, f"{keyspace.replica(zone)}app/{n}", b"")
        await put(store, f"{keyspace.replica(zone)}head", b"")
        await put(store, f"{keyspace.replica(zone)}lost/1/app/7", b"")
    pages: list[list[str]] = []
    store.fault = lambda txn, moment: pages.append(list(txn.deletes)) if moment == "after" else None

    forgotten = await forget_replica(store, keyspace, 10)

    assert forgotten.keys == DELETE_PAGE * 2 + 52
    assert forgotten.revision == store.revision
    assert pages[0][0] == keyspace.replica(10) + HEAD
    assert [len(page) for page in pages] == [DELETE_PAGE, DELETE_PAGE, 52]
    assert (await store.snapshot(keyspace.replica(10))).items == []
    assert len((await store.snapshot(keyspace.replica(100))).items) == DELETE_PAGE * 2 + 52
    assert (await forget_replica(store, keyspace, 10)).keys == 0
