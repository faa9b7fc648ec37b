"""Repair of an own catalog that somebody wrote into beside the agents."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest

from federation.catalog import Catalog
from federation.commit import MAX_OPERATIONS, Origin, build_commit
from federation.head import FEDERATION, PRIVATE, SealedHead, unseal_bytes
from federation.keys import HEAD
from federation.memory import MemoryStore, Moment
from federation.recall import Copy
from federation.records import encode
from federation.repair import Answers, Held, Outcome, Repairer, acceptable
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import Refused
from tests.support.federation import Zone, key_of, market, names

BOUND = 5.0
OTHER = encode(market("by hand"))


class Peers:
    """What the peers answer."""

    def __init__(self, *held: Copy, failures: Sequence[str] = ()) -> None:
        self.answers = Answers([Held(f"zone {n}", copy) for n, copy in enumerate(held, 100)], failures)
        self.asked = 0

    async def ask(self) -> Answers:
        self.asked += 1
        return self.answers


def repairer(zone: Zone, peers: Peers, catalog: Catalog | None = None) -> Repairer:
    origin = Origin(zone.zone, FEDERATION, zone.keyspace.own, zone.key, "repair")
    return Repairer(zone.store, catalog or zone.own, origin, peers.ask, BOUND)


async def by_hand(zone: Zone, puts: dict[str, bytes] | None = None, deletes: Sequence[str] = ()) -> None:
    """Write into etcd as no agent would."""
    prefix = zone.keyspace.own
    txn = Txn({}, puts={prefix + k: v for k, v in (puts or {}).items()}, deletes=[prefix + k for k in deletes])
    assert (await zone.store.txn(txn)).succeeded


async def faulty(catalog: Catalog) -> None:
    async with asyncio.timeout(BOUND):
        while not catalog.fault:
            await catalog.pulse.wait()


async def stored_head(zone: Zone) -> SealedHead:
    found = await zone.store.get(zone.keyspace.own + HEAD)
    assert found is not None
    return unseal_bytes(found.value, zone.key.public)


async def stored_names(zone: Zone) -> dict[str, str]:
    """Return what an agent that starts now reads."""
    fresh = Catalog(zone.zone, zone.keyspace.own, zone.key.public, own=True)
    fresh.reset(await zone.store.snapshot(zone.keyspace.own))
    assert not fresh.fault
    return names(fresh)


def shown(zone: Zone) -> Copy:
    state = zone.own.state
    assert state is not None
    return Copy(state.head, state.tree)


@asynccontextmanager
async def restarted(zone: Zone) -> AsyncGenerator[Catalog, None]:
    """Follow the catalog as an agent that knows nothing of before."""
    catalog = Catalog(zone.zone, zone.keyspace.own, zone.key.public, own=True)
    following = asyncio.create_task(catalog.follow(zone.store))
    try:
        yield catalog
    finally:
        following.cancel()
        await asyncio.wait({following})


async def test_a_sound_catalog_is_left_alone() -> None:
    async with Zone(0) as zone:
        await zone.create("m")
        revision = zone.store.revision
        done = await repairer(zone, Peers()).repair(accept=True)
        assert (done.outcome, done.written, done.removed) == (Outcome.SOUND, (), ())
        assert zone.store.revision == revision


async def test_a_catalog_that_somebody_put_right_is_listed_again() -> None:
    async with Zone(0) as zone:
        record = await zone.create("m")
        key = f"market/{record}"
        good = zone.own.tree.get(key)
        assert good is not None
        await by_hand(zone, {key: OTHER})
        await faulty(zone.own)
        await by_hand(zone, {key: good})
        done = await repairer(zone, Peers()).repair(accept=False)
        assert (done.outcome, done.written) == (Outcome.SOUND, ())
        assert not zone.own.fault
        await zone.rename(record, "again")  # no record is newer than the head any more
        assert await stored_names(zone) == {key: "again"}


async def test_what_this_agent_saw_last_is_written_back() -> None:
    async with Zone(0) as zone:
        changed, deleted = await zone.create("changed"), await zone.create("deleted")
        await by_hand(zone, {f"market/{changed}": OTHER, "market/777": OTHER}, [f"market/{deleted}"])
        await faulty(zone.own)
        before = await stored_head(zone)
        peers = Peers()
        done = await repairer(zone, peers).repair(accept=False)
        assert done.outcome is Outcome.RESTORED
        assert done.source == "the memory of this agent"
        assert set(done.written) == {f"market/{changed}", f"market/{deleted}"}
        assert done.removed == ("market/777",)
        assert done.head.pair == (before.pair[0], before.pair[1] + 1)
        assert done.head.head.prev == before.hash
        assert not zone.own.fault
        new = await zone.create("after")
        assert new == deleted + 1
        assert set((await stored_names(zone)).values()) == {"changed", "deleted", "after"}


async def test_an_agent_that_was_started_after_the_damage_takes_what_a_peer_holds() -> None:
    async with Zone(0) as zone:
        record = await zone.create("m")
        good = shown(zone)
        await by_hand(zone, {f"market/{record}": OTHER})
        async with restarted(zone) as catalog:
            await faulty(catalog)
            done = await repairer(zone, Peers(good), catalog).repair(accept=False)
            assert (done.outcome, done.source) == (Outcome.RESTORED, "zone 100")
            assert names(catalog) == {f"market/{record}": "m"}
            assert not catalog.fault


async def test_a_copy_that_is_behind_helps_where_what_was_committed_since_is_stored() -> None:
    async with Zone(0) as zone:
        changed, deleted = await zone.create("first"), await zone.create("deleted")
        behind = shown(zone)
        await asyncio.gather(*(zone.create(f"later {n}") for n in range(150)))
        await zone.delete(deleted)
        await by_hand(zone, {f"market/{changed}": OTHER, "market/777": OTHER})
        async with restarted(zone) as catalog:
            await faulty(catalog)
            done = await repairer(zone, Peers(behind), catalog).repair(accept=False)
            assert (done.outcome, done.source) == (Outcome.RESTORED, "zone 100")
            assert (done.written, done.removed) == ((f"market/{changed}",), ("market/777",))
            assert len(names(catalog)) == 151
            assert done.head.head.next_ids["market"] == 252  # those of the stored head, not of the copy


async def test_a_commit_that_met_the_damage_is_not_lost() -> None:
    async with Zone(0) as zone:
        record = await zone.create("first")
        async with restarted(zone) as catalog:
            await catalog.wait_for(zone.own.pair, BOUND)
            await by_hand(zone, {f"market/{record}": OTHER})
            await faulty(catalog)
        # As of a writer that was not told of it yet: it compares the head, and no record of others.
        state = catalog.state
        assert state is not None
        origin = Origin(0, FEDERATION, zone.keyspace.own, zone.key, "agent")
        commit = build_commit(origin, state, {"market/101": encode(market("met"))}, {"market": 102}, 0)
        assert (await zone.store.txn(commit.txn)).succeeded
        async with restarted(zone) as again:
            await faulty(again)
            done = await repairer(zone, Peers(Copy(state.head, state.tree)), again).repair(accept=False)
            assert done.written == (f"market/{record}",)
            assert names(again) == {f"market/{record}": "first", "market/101": "met"}


async def test_a_copy_without_the_damaged_record_is_no_help_and_everything_is_named() -> None:
    async with Zone(0) as zone:
        await zone.create("first")
        behind = shown(zone)
        record = await zone.create("second")
        await by_hand(zone, {f"market/{record}": OTHER})
        revision = zone.store.revision
        async with restarted(zone) as catalog:
            await faulty(catalog)
            with pytest.raises(Refused) as refusal:
                await repairer(zone, Peers(behind, failures=["zone 7 does not answer"]), catalog).repair(accept=False)
        for part in ("1/3", "zone 100 has 1/2", "zone 7 does not answer", f"market/{record}", "--accept"):
            assert part in refusal.value.message
        assert zone.store.revision == revision


async def test_many_records_are_written_back_in_transactions_of_the_usual_size() -> None:
    sizes: list[int] = []

    def note(txn: Txn, moment: Moment) -> None:
        if moment == "before" and repairing:
            sizes.append(len(txn.puts) + len(txn.deletes))

    repairing = False
    async with Zone(0, MemoryStore(note)) as zone:
        await asyncio.gather(*(zone.create(f"m{n}") for n in range(250)))
        keys = sorted(key for key, _ in zone.own.tree.items())
        for start in range(0, len(keys), 50):
            await by_hand(zone, deletes=keys[start : start + 50])
        await faulty(zone.own)
        repairing = True
        done = await repairer(zone, Peers()).repair(accept=False)
        assert len(done.written) == 250
        assert len(sizes) == 3
        assert max(sizes) <= MAX_OPERATIONS
        assert len(await stored_names(zone)) == 250


async def test_a_repair_that_was_cut_off_can_be_asked_for_again() -> None:
    left = 1

    def cut(txn: Txn, moment: Moment) -> None:
        nonlocal left
        if repairing and moment == "after":
            left -= 1
            if left == 0:
                raise StoreUnavailable("etcd does not answer: try again")

    repairing = False
    async with Zone(0, MemoryStore(cut)) as zone:
        await asyncio.gather(*(zone.create(f"m{n}") for n in range(150)))
        keys = sorted(key for key, _ in zone.own.tree.items())
        await by_hand(zone, deletes=keys[:75])
        await by_hand(zone, deletes=keys[75:])
        await faulty(zone.own)
        repairing = True
        with pytest.raises(StoreUnavailable):
            await repairer(zone, Peers()).repair(accept=False)
        assert len((await zone.store.snapshot(zone.keyspace.own)).items) > 1
        assert (await repairer(zone, Peers()).repair(accept=False)).outcome is Outcome.RESTORED
        assert len(await stored_names(zone)) == 150
        await zone.create("after")


async def test_two_repairs_at_once_end_as_one() -> None:
    async with Zone(0) as zone:
        await asyncio.gather(*(zone.create(f"m{n}") for n in range(150)))
        keys = sorted(key for key, _ in zone.own.tree.items())
        await by_hand(zone, deletes=keys[:75])
        await by_hand(zone, deletes=keys[75:])
        await faulty(zone.own)
        both = await asyncio.gather(
            *(repairer(zone, Peers()).repair(accept=False) for _ in range(2)), return_exceptions=True
        )
        assert any(not isinstance(one, BaseException) for one in both)
        for one in both:
            assert not isinstance(one, BaseException) or isinstance(one, Refused)
        assert len(await stored_names(zone)) == 150


@pytest.mark.parametrize("spoiled", [b"no head at all \xff", b"", None])
async def test_a_head_that_is_gone_or_cannot_be_read_ends_in_a_new_epoch(spoiled: bytes | None) -> None:
    async with Zone(0) as zone:
        record = await zone.create("m")
        last = await stored_head(zone)
        if spoiled is None:
            await by_hand(zone, deletes=[HEAD, f"market/{record}"])
        else:
            await by_hand(zone, {HEAD: spoiled})
        done = await repairer(zone, Peers()).repair(accept=False)
        assert done.head.pair == (2, 1)
        assert done.head.head.prev == last.hash
        assert not zone.own.fault
        assert await zone.create("after") == record + 1 + 10_000
        assert set((await stored_names(zone)).values()) == {"m", "after"}


async def test_the_newest_of_all_copies_is_taken_where_the_head_is_lost() -> None:
    async with Zone(0) as zone:
        await zone.create("one")
        behind = shown(zone)
        await zone.create("two")
        newest = shown(zone)
        await by_hand(zone, {HEAD: b"spoiled"})
        async with restarted(zone) as catalog:
            await faulty(catalog)
            done = await repairer(zone, Peers(behind, newest), catalog).repair(accept=False)
            assert (done.source, done.head.pair) == ("zone 101", (2, 1))
            assert set(names(catalog).values()) == {"one", "two"}


async def test_an_old_head_that_was_put_back_over_newer_records_ends_in_a_new_epoch() -> None:
    async with Zone(0) as zone:
        await zone.create("one")
        old = (await stored_head(zone)).encode()
        await zone.create("two")
        await by_hand(zone, {HEAD: old})
        await faulty(zone.own)
        done = await repairer(zone, Peers()).repair(accept=False)
        assert done.head.pair == (2, 1)
        assert set((await stored_names(zone)).values()) == {"one", "two"}


async def test_nothing_is_known_without_a_head_and_without_a_copy() -> None:
    async with Zone(0) as zone:
        await zone.create("m")
        await by_hand(zone, {HEAD: b"spoiled"})
        revision = zone.store.revision
        async with restarted(zone) as catalog:
            await faulty(catalog)
            for accept in (False, True):
                with pytest.raises(Refused, match=r"snapshot of etcd|zone restore"):
                    await repairer(zone, Peers(), catalog).repair(accept=accept)
        assert zone.store.revision == revision


async def test_accept_signs_what_is_stored_as_the_next_commit() -> None:
    async with Zone(0) as zone:
        record = await zone.create("m")
        await by_hand(zone, {f"market/{record}": OTHER, "market/300": OTHER})
        before = await stored_head(zone)
        async with restarted(zone) as catalog:
            await faulty(catalog)
            done = await repairer(zone, Peers(), catalog).repair(accept=True)
            assert (done.outcome, done.written, done.removed) == (Outcome.ACCEPTED, (), ())
            assert done.head.pair == (before.pair[0], before.pair[1] + 1)
            assert names(catalog) == {f"market/{record}": "by hand", "market/300": "by hand"}
            assert done.head.head.next_ids["market"] == 301  # beyond the one that nobody gave out


async def test_accept_removes_what_no_catalog_of_this_zone_holds() -> None:
    async with Zone(0) as zone:
        await zone.create("m")
        foreign = {"market/1000100": OTHER, "image/4": OTHER, "market/500000": OTHER, "market/101": b"\xff\xff\xff"}
        await by_hand(zone, foreign)
        await faulty(zone.own)
        done = await repairer(zone, Peers()).repair(accept=True)
        assert set(done.removed) == set(foreign)
        assert set((await stored_names(zone)).values()) == {"m"}


async def test_accept_begins_a_new_epoch_where_a_peer_knows_more() -> None:
    async with Zone(0) as zone:
        record = await zone.create("m")
        old = (await stored_head(zone)).encode()
        await zone.create("two")
        newer = shown(zone)
        await by_hand(zone, {HEAD: old})
        async with restarted(zone) as catalog:
            await faulty(catalog)
            done = await repairer(zone, Peers(newer), catalog).repair(accept=True)
            assert (done.outcome, done.head.pair) == (Outcome.ACCEPTED, (2, 1))
            assert len(names(catalog)) == 2
            assert done.head.head.next_ids["market"] == record + 2 + 10_000


async def test_another_agent_that_writes_meanwhile_is_not_overwritten() -> None:
    async with Zone(0) as zone:
        record = await zone.create("m")
        await by_hand(zone, {f"market/{record}": OTHER})
        await faulty(zone.own)
        head = (await stored_head(zone)).encode()

        class Slow(Peers):
            async def ask(self) -> Answers:
                await by_hand(zone, {HEAD: head})  # as whoever repairs it too
                return await super().ask()

        with pytest.raises(Refused, match="meanwhile"):
            await repairer(zone, Slow()).repair(accept=False)


@pytest.mark.parametrize(
    ("catalog", "key", "belongs"),
    [
        (FEDERATION, "market/100", True),
        (FEDERATION, "zone/0", True),
        (FEDERATION, "gadget/100", True),
        (FEDERATION, "zone/1", False),
        (FEDERATION, "market/500000", False),
        (FEDERATION, "market/1000100", False),
        (FEDERATION, "image/1", False),
        (PRIVATE, "image/1", True),
        (PRIVATE, "image/9999999999", False),
        (PRIVATE, "market/500000", True),
        (PRIVATE, "market/100", False),
        (PRIVATE, "zone/0", False),
    ],
)
def test_which_records_a_catalog_can_hold(catalog: int, key: str, belongs: bool) -> None:
    origin = Origin(0, FEDERATION if catalog == FEDERATION else PRIVATE, "/c/", key_of(0), "agent")
    assert acceptable(origin, key, OTHER) is belongs
