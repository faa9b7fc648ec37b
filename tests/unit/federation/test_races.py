"""What happens in the middle of something else: answers that are late, streams that break, hands in etcd."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from federation.link.serve import serve
from federation.link.sink import Sink, State
from federation.link.source import Source
from federation.link.stream import StreamBroken
from federation.memory import MemoryStore
from federation.records import encode
from federation.store import Snapshot, StoreUnavailable, Txn, TxnResult
from federation.tree import Tree
from fedmarket.errors import Cancelled, OutcomeUnknown, Refused
from tests.support.federation import SERVE, WRITER, End, Zone, market, names, pipe
from tests.support.waiting import eventually


class HeldStore(MemoryStore):
    """A store that asks before it applies a transaction, before it answers it, and before it answers a listing."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: Callable[[], Awaitable[object]] = _nothing
        self.before: Callable[[Txn], Awaitable[None]] = _at_once
        self.after: Callable[[Txn], Awaitable[None]] = _at_once

    async def txn(self, txn: Txn) -> TxnResult:
        await self.before(txn)
        result = await super().txn(txn)
        await self.after(txn)
        return result

    async def snapshot(self, prefix: str) -> Snapshot:
        snapshot = await super().snapshot(prefix)
        await self.listed()
        return snapshot


async def _nothing() -> None:
    """Hold no listing."""


async def _at_once(txn: Txn) -> None:
    """Hold nothing."""


async def flip(zone: Zone, key: str) -> None:
    """Change a record by hand."""
    await MemoryStore.txn(zone.store, Txn({}, puts={key: encode(market("rotten"))}))


def of_replica(txn: Txn) -> bool:
    return any("/replica/" in key for key in [*txn.puts, *txn.deletes])


def down(zone: Zone, home: int) -> Callable[[], bool]:
    return lambda: zone.links[home].status.state is State.DOWN


async def test_a_first_diff_that_was_cut_goes_on_with_the_next_stream() -> None:
    store, written = HeldStore(), list[Txn]()

    async with Zone(0) as berlin, Zone(100, store) as tokyo:
        await asyncio.gather(*(berlin.create(f"m{n}") for n in range(40)))

        async def cut_in_the_middle(txn: Txn) -> None:
            if of_replica(txn):
                written.append(txn)
            if len(written) == 5:
                tokyo.cut()

        store.after = cut_in_the_middle
        tokyo.follow(berlin)
        await eventually(lambda: len(written) >= 5)
        await eventually(down(tokyo, 0))
        tokyo.heal()
        await tokyo.caught_up_with(berlin)
        assert names(tokyo.replicas[0]) == names(berlin.own)


async def test_a_record_of_the_replica_flipped_while_commits_flow_is_repaired_without_a_restart() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await asyncio.gather(*(berlin.create(f"m{n}") for n in range(20)))
        await tokyo.caught_up_with(berlin)
        await flip(tokyo, tokyo.keyspace.replica(0) + "market/107")
        await berlin.create("next")
        await tokyo.caught_up_with(berlin)
        await eventually(lambda: not tokyo.replicas[0].syncing)
        assert names(tokyo.replicas[0]) == names(berlin.own)


async def test_a_record_of_a_third_zone_put_into_the_replica_by_hand_is_removed_and_the_link_goes_on() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await berlin.create("m")
        await tokyo.caught_up_with(berlin)
        await flip(tokyo, tokyo.keyspace.replica(0) + "market/7000107")
        await eventually(lambda: tokyo.replicas[0].syncing)
        tokyo.cut()
        await eventually(down(tokyo, 0))
        tokyo.heal()
        await eventually(lambda: not tokyo.replicas[0].syncing)
        assert names(tokyo.replicas[0]) == names(berlin.own)


async def test_a_diff_of_one_agent_fences_the_stream_of_another_that_loaded_before_it_wrote() -> None:
    """Else the other would put the next commit on top of a half-written DIFF and take it for whole."""
    one_store = HeldStore()
    async with Zone(0) as berlin, Zone(100, one_store) as one:
        for n in range(3):
            await berlin.create(f"m{n}")
        one.follow(berlin)
        await one.caught_up_with(berlin)
        one.cut()
        await eventually(down(one, 0))
        for n in range(3):
            await berlin.rename(100 + n, f"changed {n}")
        berlin.ring._entries.clear()
        written = 0

        async def die_after_a_bucket(txn: Txn) -> None:
            nonlocal written
            written += of_replica(txn)
            if written == 2:  # the fence, and one bucket
                one.cut()
                raise StoreUnavailable("etcd did not answer")

        one_store.after = die_after_a_bucket
        one.heal()
        await eventually(lambda: written == 2)
        stored = (await one_store.snapshot(one.keyspace.replica(0))).items
        [head] = [item for item in stored if item.key.endswith("/head")]
        assert max(item.mod_revision for item in stored) == head.mod_revision


async def test_a_follower_that_hangs_up_while_it_is_refused_is_no_fault_of_the_home() -> None:
    class Gone(End[object, object]):
        async def send(self, message: object) -> None:
            raise StreamBroken("gone")

    async with Zone(0) as zone:
        mine, its = pipe()
        gone = Gone(its._outgoing, its._incoming)
        await mine.send(Sink(100, 0, zone.key.public, None, Tree.empty()).hello())
        refusing = Source(zone.ring, 7, lambda: None)
        await serve(refusing, gone, zone.own.pulse, lambda pair: zone.own.wait_for(pair, 1), SERVE)  # type: ignore[arg-type]


async def test_a_hand_in_etcd_while_a_commit_is_on_its_way_does_not_end_the_writer() -> None:
    store, asked, go = HeldStore(), asyncio.Event(), asyncio.Event()

    async def hold(txn: Txn) -> None:
        asked.set()
        await go.wait()

    async with Zone(0, store) as zone:
        await zone.create("a")
        store.before = hold
        changing = asyncio.create_task(zone.create("b"))
        await asked.wait()
        await flip(zone, zone.keyspace.own + "market/100")
        while not zone.own.fault:
            await zone.own.pulse.wait()
        go.set()
        assert await changing == 101
        with pytest.raises(Refused, match="repair"):
            await zone.create("c")
        assert not zone._running[1].done()


async def test_a_hand_in_etcd_is_noticed_although_a_commit_of_ours_overtakes_the_listing() -> None:
    store, listing, go = HeldStore(), asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        listing.set()
        await go.wait()

    async with Zone(0, store) as zone:
        await zone.create("a")
        store.listed = hold
        await flip(zone, zone.keyspace.own + "market/100")
        await listing.wait()
        await zone.create("b")
        go.set()
        await eventually(lambda: bool(zone.own.fault))


async def test_a_record_changed_by_hand_is_not_overwritten_by_a_commit_that_did_not_see_it() -> None:
    store = HeldStore()
    async with Zone(0, store) as zone:
        await zone.create("a")
        key = zone.keyspace.own + "market/100"

        async def hand(txn: Txn) -> None:
            store.before = _at_once
            await flip(zone, key)

        store.before = hand
        with pytest.raises(Exception, match="repair"):
            await zone.rename(100, "b")
        found = await store.get(key)
        assert found is not None
        assert found.value == encode(market("rotten"))


async def test_a_lost_answer_that_cannot_be_looked_up_is_unknown_and_not_refused() -> None:
    """The head has moved past the commit, and our watch does not tell how."""
    store = HeldStore()
    async with Zone(0, store) as other, Zone(0, store) as zone:
        object.__setattr__(zone.writer, "_settings", type(WRITER)(catch_up_seconds=0.05))
        zone._running[0].cancel()

        async def lose(txn: Txn) -> None:
            store.after = _at_once
            await other.own.wait_for((1, 2), 5)
            await other.create("of the other agent")
            raise StoreUnavailable("etcd did not answer")

        store.after = lose
        with pytest.raises(OutcomeUnknown):
            await zone.create("m")
        assert "m" in names(other.own).values()


async def test_a_change_that_comes_after_the_writer_has_stopped_is_told_so() -> None:
    async with Zone(0) as zone:
        zone._running[1].cancel()
        await asyncio.wait([zone._running[1]])
        with pytest.raises(Cancelled, match="nothing was changed"):
            await asyncio.wait_for(zone.create("m"), 1)
