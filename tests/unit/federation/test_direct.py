"""Zones that share one etcd read each other there; zones that no longer do, follow each other by streams again."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from federation.head import SealedHead, seal
from federation.keys import HEAD, Keyspace
from federation.link.direct import Newest
from federation.link.sink import State
from federation.memory import MemoryStore, Moment
from federation.records import encode
from federation.store import StoreUnavailable, Txn, TxnResult
from tests.support.federation import DIRECT, Zone, forge, key_of, market, names

BOUND = 10.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not condition():
            await asyncio.sleep(0.01)


async def beats(zone: Zone) -> None:
    """Commit nothing from time to time, as the agent that holds the duty does."""
    while True:
        await zone.writer.beat()
        await asyncio.sleep(DIRECT.window_seconds / 5)


def state(follower: Zone, home: Zone) -> State:
    return follower.links[home.zone].status.state


def seen(follower: Zone, home: Zone) -> dict[str, str]:
    """Return what a reader in one zone sees of another."""
    return names(Newest(follower.replicas, follower.direct)[home.zone])


async def test_zones_on_one_etcd_need_no_stream() -> None:
    store = MemoryStore()
    async with Zone(0, store) as berlin, Zone(100, store) as tokyo, asyncio.TaskGroup() as tasks:
        berlin.reachable = tokyo.reachable = False
        beating = [tasks.create_task(beats(zone)) for zone in (berlin, tokyo)]
        berlin.follow(tokyo)
        tokyo.follow(berlin)
        await berlin.create("b")
        await tokyo.create("t")
        await until(lambda: state(berlin, tokyo) is state(tokyo, berlin) is State.SHARED)
        await until(lambda: list(seen(tokyo, berlin).values()) == ["b"])
        await until(lambda: list(seen(berlin, tokyo).values()) == ["t"])
        assert names(tokyo.replicas[0]) == {}, "nothing was copied"
        for task in beating:
            task.cancel()


async def test_a_stream_ends_when_the_peer_comes_to_our_etcd_and_begins_when_it_leaves() -> None:
    shared, apart = MemoryStore(), MemoryStore()
    async with Zone(100, shared) as tokyo, asyncio.TaskGroup() as tasks:
        async with Zone(0, apart) as berlin:
            await berlin.create("one")
            tokyo.follow(berlin)
            await until(lambda: state(tokyo, berlin) is State.TAIL)
            await tokyo.caught_up_with(berlin)
        await move(apart, shared, berlin)
        async with Zone(0, shared) as berlin:
            tokyo.homes[0] = berlin
            beating = tasks.create_task(beats(berlin))
            await berlin.create("two")
            await until(lambda: state(tokyo, berlin) is State.SHARED)
            await until(lambda: sorted(seen(tokyo, berlin).values()) == ["one", "two"])
            assert list(names(tokyo.replicas[0]).values()) == ["one"]
            last = berlin.own.pair
            beating.cancel()
            await asyncio.wait([beating])
        await move(shared, apart, berlin)
        async with Zone(0, apart) as berlin:
            tokyo.homes[0] = berlin
            await berlin.create("three")
            await until(lambda: state(tokyo, berlin) is State.TAIL)
            await tokyo.caught_up_with(berlin)
            assert sorted(seen(tokyo, berlin).values()) == ["one", "three", "two"]
            assert berlin.own.pair > last


async def test_the_last_head_that_was_seen_is_kept_over_a_restart() -> None:
    store = MemoryStore()
    async with Zone(0, store) as berlin:
        async with Zone(100, store) as tokyo:
            tokyo.reachable = False
            tokyo.follow(berlin)
            await until(lambda: tokyo.direct[0].catalog.pair == berlin.own.pair)
            await berlin.create("b")
            await until(lambda: tokyo.replicas[0].stored[0] == head_bytes(berlin))
        older = seal(replace(head_of(berlin).head, seq=1), berlin.key)
        async with Zone(100, store) as tokyo:
            tokyo.reachable = False
            tokyo.follow(berlin)
            await until(lambda: tokyo.direct[0].catalog.pair == (1, 2))
            await store.txn(Txn({}, puts={berlin.keyspace.own + HEAD: older.encode()}))
            await until(lambda: "older than" in tokyo.direct[0].catalog.fault)
            assert tokyo.direct[0].fault is None
            assert list(seen(tokyo, berlin).values()) == ["b"]


class SlowStore(MemoryStore):
    """A store that holds the first write at one key for as long as it is told to."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key
        self.reached = asyncio.Event()
        self.proceed = asyncio.Event()

    async def txn(self, txn: Txn) -> TxnResult:
        if self._key in txn.puts and not self.reached.is_set():
            self.reached.set()
            await self.proceed.wait()
        return await super().txn(txn)


async def test_a_head_that_comes_while_the_one_before_is_being_kept_is_kept_too() -> None:
    store = SlowStore(Keyspace("/fedmarket/1/", 100).replica(0) + HEAD)
    async with Zone(0, store) as berlin, Zone(100, store) as tokyo:
        tokyo.reachable = False
        tokyo.follow(berlin)
        await until(store.reached.is_set)
        await berlin.create("b")
        await until(lambda: tokyo.direct[0].catalog.pair == berlin.own.pair)
        store.proceed.set()
        await until(lambda: tokyo.replicas[0].stored[0] == head_bytes(berlin))


async def test_the_last_head_is_kept_though_etcd_did_not_take_it_at_first() -> None:
    store = MemoryStore()
    async with Zone(0, store) as berlin, Zone(100, store) as tokyo:
        at_head, refused = tokyo.keyspace.replica(0) + HEAD, 0

        def fail_twice(txn: Txn, moment: Moment) -> None:
            nonlocal refused
            if at_head in txn.puts and moment == "before" and refused < 2:
                refused += 1
                raise StoreUnavailable("etcd does not answer")

        store.fault = fail_twice
        tokyo.reachable = False
        tokyo.follow(berlin)
        await until(lambda: tokyo.replicas[0].stored[0] == head_bytes(berlin))
        assert refused == 2


async def test_two_heads_with_one_place_are_a_fork_until_a_person_decides() -> None:
    store = MemoryStore()
    async with Zone(0, store) as berlin, Zone(100, store) as tokyo:
        tokyo.follow(berlin)
        await berlin.create("b")
        await until(lambda: tokyo.direct[0].catalog.pair == berlin.own.pair)
        genuine = head_bytes(berlin)
        other = seal(replace(head_of(berlin).head, agent="another"), berlin.key)
        await store.txn(Txn({}, puts={berlin.keyspace.own + HEAD: other.encode()}))
        await until(lambda: state(tokyo, berlin) is State.FORKED)
        assert list(seen(tokyo, berlin).values()) == ["b"]
        await store.txn(Txn({}, puts={berlin.keyspace.own + HEAD: genuine}))
        await berlin.create("after")
        tokyo.links[0].retry()
        await until(lambda: sorted(seen(tokyo, berlin).values()) == ["after", "b"])


async def test_records_outside_the_peers_range_are_refused() -> None:
    store = MemoryStore()
    async with Zone(0, store) as berlin, Zone(100, store) as tokyo:
        tokyo.follow(berlin)
        await until(lambda: tokyo.direct[0].catalog.pair == berlin.own.pair)
        await forge(berlin, {"market/100000100": encode(market("mine"))})
        await until(lambda: state(tokyo, berlin) is State.REFUSED)
        assert seen(tokyo, berlin) == {}


async def test_what_another_key_signed_is_nothing() -> None:
    store = MemoryStore()
    async with Zone(0) as berlin, Zone(100, store) as tokyo:
        stranger = seal(head_of(berlin).head, key_of(7))
        await store.txn(Txn({}, puts={Keyspace("/fedmarket/1/", 100).catalog(0) + HEAD: stranger.encode()}))
        tokyo.follow(berlin)
        await until(lambda: state(tokyo, berlin) is State.TAIL)
        await tokyo.caught_up_with(berlin)


def head_of(zone: Zone) -> SealedHead:
    assert zone.own.state is not None
    return zone.own.state.head


def head_bytes(zone: Zone) -> bytes:
    return head_of(zone).encode()


async def move(source: MemoryStore, target: MemoryStore, zone: Zone) -> None:
    """Take a zone's catalog to another etcd, as its operator does while no agent of it runs."""
    moved, old = await source.snapshot(zone.keyspace.own), await target.snapshot(zone.keyspace.own)
    deletes = {item.key for item in old.items} - {item.key for item in moved.items}
    await target.txn(Txn({}, puts={item.key: item.value for item in moved.items}, deletes=sorted(deletes)))
