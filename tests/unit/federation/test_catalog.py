"""A catalog fed by its store: what it publishes, what it does not believe, and its own writes seen twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from federation.ahead import MANY
from federation.catalog import Catalog, Mismatch, Publication
from federation.keys import HEAD
from federation.memory import MemoryStore
from federation.records import encode
from federation.store import Change, Revision, Txn
from fedmarket.errors import Refused, Timeout
from tests.support.federation import Zone, key_of, market, names

REPLICA = "/fedmarket/1/zone/100/replica/0/"


def replica() -> Catalog:
    return Catalog(0, REPLICA, key_of(0).public, own=False)


@asynccontextmanager
async def followed(catalog: Catalog, store: MemoryStore) -> AsyncIterator[Catalog]:
    """Keep a catalog in step with a store while the context is open."""
    following = asyncio.create_task(catalog.follow(store))
    try:
        await catalog.pulse.wait()
        yield catalog
    finally:
        following.cancel()
        await asyncio.wait([following])
        assert following.cancelled()


async def home_revisions(prefix: str) -> list[Revision]:
    """Return what a home committed, as revisions below another prefix: create two records, change one, delete one."""
    async with Zone(0) as zone:
        await zone.create("a")
        await zone.create("b")
        await zone.rename(100, "c")
        await zone.delete(101)
        revisions: list[Revision] = []
        async for revision in zone.store.watch(zone.keyspace.own, 1):
            changes = [Change(prefix + c.key.removeprefix(zone.keyspace.own), c.value) for c in revision.changes]
            revisions.append(Revision(len(revisions) + 10, changes))
            if revision.revision == zone.store.revision:
                break
        return revisions


def without_head(revision: Revision) -> Revision:
    return Revision(revision.revision, [change for change in revision.changes if not change.key.endswith(HEAD)])


async def test_each_commit_is_published_with_the_keys_that_it_changed() -> None:
    catalog, seen = replica(), list[Publication]()
    catalog.listen(seen.append)
    for revision in await home_revisions(REPLICA):
        catalog.apply(revision)
    assert [publication.changed for publication in seen] == [
        frozenset(),
        frozenset({"market/100"}),
        frozenset({"market/101"}),
        frozenset({"market/100"}),
        frozenset({"market/101"}),
    ]
    assert [publication.consecutive for publication in seen] == [False, True, True, True, True]
    assert names(catalog) == {"market/100": "c"}


async def test_a_mix_of_two_commits_is_not_published_and_is_marked() -> None:
    first, second, third, fourth, _ = await home_revisions(REPLICA)
    catalog = replica()
    catalog.apply(first)
    catalog.apply(second)
    catalog.apply(without_head(third))
    catalog.apply(without_head(fourth))
    assert (names(catalog), catalog.pair, catalog.syncing) == ({"market/100": "a"}, (1, 2), True)
    assert catalog.index.named("market", "b") == set()
    catalog.apply(Revision(20, [change for change in fourth.changes if change.key.endswith(HEAD)]))
    assert (names(catalog), catalog.pair) == ({"market/100": "c", "market/101": "b"}, (1, 4))
    assert not catalog.syncing
    assert catalog.index.named("market", "b") == {101}


async def test_the_mark_of_a_first_diff_is_a_stored_head_with_a_revision_and_without_content() -> None:
    catalog = replica()
    catalog.apply(Revision(5, [Change(REPLICA + HEAD, b"")]))
    assert catalog.stored[::2] == (b"", 5)
    catalog.apply(Revision(6, [Change(REPLICA + HEAD, None)]))
    assert catalog.stored[::2] == (b"", 0)


async def test_after_a_restart_inside_a_diff_the_stored_mix_is_shown_and_marked() -> None:
    store = MemoryStore()
    revisions = await home_revisions(REPLICA)
    await store.txn(Txn({}, puts={c.key: c.value for r in revisions[:3] for c in r.changes if c.value is not None}))
    await store.txn(Txn({}, puts={REPLICA + "market/102": encode(market("of a later commit"))}))
    async with followed(replica(), store) as catalog:
        assert catalog.syncing
        assert catalog.state is None
        assert sorted(names(catalog).values()) == ["a", "b", "of a later commit"]


async def test_what_this_agent_wrote_itself_is_taken_once_whichever_comes_first() -> None:
    first, second, third, *_ = await home_revisions(REPLICA)
    catalog, seen = replica(), list[Publication]()
    catalog.listen(seen.append)
    catalog.apply(first)
    catalog.apply(second, direct=True)
    catalog.apply(second)
    catalog.apply(third)
    catalog.apply(third, direct=True)
    assert [publication.state.head.pair for publication in seen] == [(1, 1), (1, 2), (1, 3)]


async def test_a_revision_that_comes_after_a_later_one_is_a_reason_to_list_again() -> None:
    first, second, third, *_ = await home_revisions(REPLICA)
    catalog = replica()
    catalog.apply(first)
    catalog.apply(third, direct=True)
    with pytest.raises(Mismatch):
        catalog.apply(second)


async def test_a_listing_that_our_own_write_has_overtaken_takes_nothing_back() -> None:
    async with Zone(0) as zone:
        await zone.create("a")
        old = await zone.store.snapshot(zone.keyspace.own)
        await zone.create("b")
        zone.own.reset(old)
        assert sorted(names(zone.own).values()) == ["a", "b"]
        await zone.create("c")
        assert sorted(names(zone.own).values()) == ["a", "b", "c"]


async def test_history_that_was_compacted_away_is_listed_and_nothing_is_missed() -> None:
    other = Catalog(0, "/fedmarket/1/catalog/0/", key_of(0).public, own=True)
    async with Zone(0) as zone, followed(other, zone.store):
        await zone.create("a")
        await zone.delete(100)
        await zone.create("b")
        zone.store.compact(zone.store.revision)
        await zone.create("c")
        await other.wait_for(zone.own.pair, 5)
        assert names(other) == names(zone.own) == {"market/101": "b", "market/102": "c"}


@pytest.mark.parametrize("key", ["market/100", "market/499"], ids=["changed", "added"])
async def test_a_record_written_by_hand_stops_changes_and_its_removal_lets_them_go_on(key: str) -> None:
    async with Zone(0) as zone:
        await zone.create("a")
        before = await zone.store.get(zone.keyspace.own + key)
        await zone.store.txn(Txn({}, puts={zone.keyspace.own + key: encode(market("by hand"))}))
        while not zone.own.fault:
            await zone.own.pulse.wait()
        assert names(zone.own) == {"market/100": "a"}
        with pytest.raises(Refused, match="repair"):
            await zone.create("b")
        puts = {zone.keyspace.own + key: before.value} if before else {}
        await zone.store.txn(Txn({}, puts=puts, deletes=[] if before else [zone.keyspace.own + key]))
        while zone.own.fault:
            await zone.own.pulse.wait()
        assert await zone.create("b") == 101


async def test_keys_that_are_no_records_are_ignored() -> None:
    async with Zone(0) as zone:
        await zone.store.txn(Txn({}, puts={zone.keyspace.own + "README": b"by hand", zone.keyspace.own + "a/b/c": b""}))
        assert await zone.create("a") == 100
        assert names(zone.own) == {"market/100": "a"}


async def test_a_wait_for_a_commit_ends_with_it_or_with_its_bound() -> None:
    async with Zone(0) as zone:
        waiting = asyncio.create_task(zone.own.wait_for((1, 3), 5))
        await zone.create("a")
        assert not waiting.done()
        await zone.create("b")
        await waiting
        with pytest.raises(Timeout, match="1/9"):
            await zone.own.wait_for((1, 9), 0.01)


async def test_waits_that_were_given_up_leave_nothing_behind() -> None:
    catalog = replica()
    for _ in range(10):
        with pytest.raises(Timeout):
            await catalog.wait_for((1, 1), 0.0)
    assert catalog.pulse._waiters == []


async def test_catalogs_of_many_records_are_prepared_aside_and_come_out_the_same() -> None:
    async with Zone(0) as home, Zone(100) as peer:
        ids: list[int] = []
        while len(ids) <= MANY:  # as many at once as a writer takes
            ids += await asyncio.gather(*(home.create(f"m{len(ids) + n}") for n in range(700)))
        peer.follow(home)
        await peer.caught_up_with(home)
        watching = home.own._watching
        home.own.doubt()
        async with asyncio.timeout(10):
            while home.own._watching in (None, watching):
                await home.own.pulse.wait()
        for catalog in (home.own, peer.replicas[0]):
            assert list(catalog.index.ids("market")) == sorted(ids)
            assert catalog.tree.root == home.own.tree.root
        last = await home.create("last")
        await peer.caught_up_with(home)
        assert peer.replicas[0].index.named("market", "last") == {last}
