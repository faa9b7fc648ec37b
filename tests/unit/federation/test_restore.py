"""Stores that were put back, and zones that were cloned: no head and no id is used for two things."""

import asyncio
from collections.abc import Callable

import pytest

from federation.head import SealedHead
from federation.memory import MemoryStore
from fedmarket.errors import Refused
from tests.support.federation import Zone, names

BOUND = 10.0


async def settled(condition: Callable[[], bool], zone: Zone) -> None:
    """Wait until something is so that the zone's own catalog tells of."""
    async with asyncio.timeout(BOUND):
        while not condition():
            await zone.own.pulse.wait()


def head_of(zone: Zone) -> SealedHead:
    assert zone.own.state is not None
    return zone.own.state.head


async def test_a_head_of_ours_that_the_store_lacks_begins_an_epoch() -> None:
    async with Zone(0) as original, Zone(0) as put_back:
        first = await original.create("lost")
        await original.create("lost too")
        await put_back.restorer.show(head_of(original).signed)
        assert put_back.own.pair == (2, 1)
        again = await put_back.create("new")
        assert again >= first + 10_000


async def test_as_many_new_writes_as_were_lost_are_told_by_the_hash() -> None:
    async with Zone(0) as original, Zone(0) as put_back:
        await original.create("lost")
        await put_back.create("new")
        assert original.own.pair == put_back.own.pair
        await put_back.restorer.show(head_of(original).signed)
        assert put_back.own.pair == (2, 1)
        assert list(names(put_back.own).values()) == ["new"]


async def test_more_new_writes_than_were_lost_are_told_by_the_hash_at_that_place() -> None:
    async with Zone(0) as original, Zone(0) as put_back:
        await original.create("lost")
        for n in range(5):
            await put_back.create(f"new {n}")
        await put_back.restorer.show(head_of(original).signed)
        assert put_back.own.pair == (2, 1)


async def test_a_lagging_view_proves_nothing() -> None:
    store = MemoryStore()
    async with Zone(0, store) as fast, Zone(0, store) as slow:
        await slow.own.wait_for(fast.own.pair, BOUND)
        slow._running[0].cancel()  # it sees no more of what the other one writes
        await asyncio.wait([slow._running[0]])
        await fast.create("m")
        judging = asyncio.create_task(slow.restorer.show(head_of(fast).signed))
        await asyncio.sleep(0.05)
        assert not judging.done()
        slow._running[0] = asyncio.create_task(slow.own.follow(store))
        await judging
        assert slow.own.pair == fast.own.pair == (1, 2)


async def test_what_nobody_of_us_signed_proves_nothing() -> None:
    async with Zone(0) as zone, Zone(100) as other:
        await other.create("m")
        await zone.restorer.show(head_of(other).signed)
        assert zone.own.pair == (1, 1)


async def test_a_head_of_an_epoch_that_is_over_proves_nothing_new() -> None:
    async with Zone(0) as original, Zone(0) as put_back:
        await original.create("lost")
        earlier = head_of(original)
        await original.create("lost too")
        await put_back.restorer.show(head_of(original).signed)
        await put_back.restorer.show(earlier.signed)
        assert put_back.own.pair == (2, 1)


async def test_two_peers_at_once_begin_one_epoch() -> None:
    async with Zone(0) as original, Zone(0) as put_back:
        await original.create("lost")
        earlier = head_of(original)
        await original.create("lost too")
        shown = [earlier.signed, head_of(original).signed, earlier.signed]
        await asyncio.gather(*(put_back.restorer.show(signed) for signed in shown))
        assert put_back.own.pair[0] == 2


async def test_a_clone_that_answers_with_an_epoch_of_its_own_bars_writing() -> None:
    async with Zone(0) as zone, Zone(0) as clone:
        await zone.create("m")
        await clone.restorer.show(head_of(zone).signed)
        await zone.restorer.show(head_of(clone).signed)
        assert (clone.own.pair, zone.own.pair) == ((2, 1), (3, 1))
        await clone.restorer.show(head_of(zone).signed)
        assert clone.own.pair == (2, 1)
        with pytest.raises(Refused, match="another copy of this zone is at work"):
            await clone.create("x")
        await zone.create("the other one goes on")


async def test_a_store_that_is_put_back_under_a_running_agent_begins_an_epoch() -> None:
    async with Zone(0) as home, Zone(100) as peer:
        peer.follow(home)
        kept = await home.create("kept")
        backup = home.store.backup()
        lost = await home.create("lost")
        await peer.caught_up_with(home)
        home.store.restore(backup)
        await settled(lambda: home.own.vanished is not None, home)
        assert "lost" in names(home.own).values()  # readers never go back
        await home.writer.beat()
        assert home.own.pair == (2, 2)
        assert names(home.own) == {f"market/{kept}": "kept"}
        new = await home.create("new")
        assert new >= lost + 10_000
        await peer.caught_up_with(home)
        assert peer.replicas[0].tree.root == home.own.tree.root
        await stored_as_lost(peer, f"market/{lost}")


async def test_as_many_writes_after_putting_back_end_in_equal_catalogs() -> None:
    """The agent was stopped meanwhile, and its high-water mark is as old as the backup."""
    store = MemoryStore()
    async with Zone(100) as peer:
        async with Zone(0, store) as home:
            peer.follow(home)
            backup = store.backup()
            for n in range(5):
                await home.create(f"lost {n}")
            await peer.caught_up_with(home)
            peer.cut()
        store.restore(backup)
        async with Zone(0, store) as home:
            for n in range(5):
                await home.create(f"new {n}")
            assert home.own.pair == peer.replicas[0].pair
            peer.heal()
            peer.homes[0] = home
            await home.own.wait_for((2, 1), BOUND)
            await peer.caught_up_with(home)
            assert names(peer.replicas[0]) == names(home.own)


async def test_a_peers_welcome_is_evidence_too() -> None:
    async with Zone(0) as original, Zone(0) as put_back, Zone(100) as peer:
        await original.create("lost")
        peer.follow(original)
        await peer.caught_up_with(original)
        put_back.follow(peer)
        await put_back.own.wait_for((2, 1), BOUND)


async def test_a_store_that_lost_everything_is_not_written() -> None:
    async with Zone(0) as zone:
        await zone.create("m")
        zone.store.restore(MemoryStore().backup())
        await settled(lambda: bool(zone.own.fault), zone)
        with pytest.raises(Refused, match="zone restore"):
            await zone.create("x")
        assert list(names(zone.own).values()) == ["m"]


async def stored_as_lost(zone: Zone, key: str) -> None:
    """Check that a replica has kept what its home lost."""
    snapshot = await zone.store.snapshot(zone.keyspace.replica(0) + "lost/")
    assert [item.key.rpartition("lost/")[2] for item in snapshot.items] == [f"1/{key}"]
