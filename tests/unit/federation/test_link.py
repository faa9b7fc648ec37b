"""Two zones in memory: the real source, sink, stores and views over streams that can be cut."""

import asyncio
from dataclasses import replace

import pytest

from federation.head import seal
from federation.link.sink import Sink, State
from federation.records import encode
from federation.store import Txn
from tests.support.federation import Zone, forge, key_of, market, names


async def until(condition: "object", zone: Zone, home: int) -> None:
    """Wait, with a bound, until a link looks as expected."""
    async with asyncio.timeout(10):
        while not condition(zone.links[home].status):  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def test_records_of_a_peer_appear_and_go() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        await berlin.create("before the link")
        tokyo.follow(berlin)
        await tokyo.caught_up_with(berlin)
        assert list(names(tokyo.replicas[0]).values()) == ["before the link"]
        record_id = await berlin.create("after")
        await berlin.rename(record_id, "renamed")
        await berlin.delete(100)
        await tokyo.caught_up_with(berlin)
        assert names(tokyo.replicas[0]) == {"market/101": "renamed"}
        await until(lambda s: s.state is State.TAIL, tokyo, 0)


async def test_what_is_stored_of_a_peer_is_byte_for_byte_what_it_stored() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await asyncio.gather(*(berlin.create(f"m{n}") for n in range(30)))
        await tokyo.caught_up_with(berlin)
        home = {
            i.key.removeprefix(berlin.keyspace.own): i.value
            for i in (await berlin.store.snapshot(berlin.keyspace.own)).items
        }
        prefix = tokyo.keyspace.replica(0)
        copy = {i.key.removeprefix(prefix): i.value for i in (await tokyo.store.snapshot(prefix)).items}
        assert copy == home


async def test_both_zones_follow_each_other_and_go_on_during_a_cut() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        berlin.follow(tokyo)
        await asyncio.gather(berlin.create("b1"), tokyo.create("t1"))
        await asyncio.gather(tokyo.caught_up_with(berlin), berlin.caught_up_with(tokyo))
        tokyo.cut()
        await until(lambda s: s.state is State.DOWN, tokyo, 0)
        await asyncio.gather(berlin.create("b2"), tokyo.create("t2"), berlin.delete(100))
        assert list(names(tokyo.replicas[0]).values()) == ["b1"]
        tokyo.heal()
        await asyncio.gather(tokyo.caught_up_with(berlin), berlin.caught_up_with(tokyo))
        assert sorted(names(tokyo.replicas[0]).values()) == ["b2"]
        assert sorted(names(berlin.replicas[100]).values()) == ["t1", "t2"]


async def test_after_a_short_cut_only_the_missed_commits_are_sent() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await asyncio.gather(*(berlin.create(f"m{n}") for n in range(40)))
        await tokyo.caught_up_with(berlin)
        await until(lambda s: s.state is State.TAIL, tokyo, 0)
        seen: list[State] = []
        link = tokyo.links[0]
        progress = link.progress

        def noted(sink: Sink) -> None:
            seen.append(sink.state)
            progress(sink)

        link.progress = noted  # type: ignore[method-assign]
        tokyo.cut()
        await until(lambda s: s.state is State.DOWN, tokyo, 0)
        await berlin.create("missed")
        tokyo.heal()
        await tokyo.caught_up_with(berlin)
        assert State.DIFF not in seen


async def test_a_follower_that_fell_out_of_the_ring_is_given_a_diff() -> None:
    async with Zone(0, ring_bytes=2000) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await asyncio.gather(*(berlin.create(f"m{n}") for n in range(200)))
        await tokyo.caught_up_with(berlin)
        tokyo.cut()
        await until(lambda s: s.state is State.DOWN, tokyo, 0)
        for n in range(60):
            await berlin.rename(100 + n, f"changed {n}")
        for n in range(120):
            await berlin.delete(160 + (n % 40)) if n < 40 else None
        tokyo.heal()
        await tokyo.caught_up_with(berlin)
        assert names(tokyo.replicas[0]) == names(berlin.own)


async def test_what_a_diff_removes_is_kept_as_lost() -> None:
    async with Zone(0, ring_bytes=0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await berlin.create("stays")
        await berlin.create("goes")
        gone = berlin.own.tree.get("market/101")
        await tokyo.caught_up_with(berlin)
        tokyo.cut()
        await until(lambda s: s.state is State.DOWN, tokyo, 0)
        await berlin.delete(101)
        tokyo.heal()
        await tokyo.caught_up_with(berlin)
        assert list(names(tokyo.replicas[0]).values()) == ["stays"]
        lost = await tokyo.store.get(tokyo.keyspace.replica(0) + "lost/1/market/101")
        assert lost is not None
        assert lost.value == gone


async def test_a_restarted_follower_goes_on_where_it_was_without_a_diff() -> None:
    async with Zone(0) as berlin:
        async with Zone(100) as tokyo:
            tokyo.follow(berlin)
            await asyncio.gather(*(berlin.create(f"m{n}") for n in range(20)))
            await tokyo.caught_up_with(berlin)
        await berlin.create("meanwhile")
        async with Zone(100, tokyo.store) as again:
            again.follow(berlin)
            await again.caught_up_with(berlin)
            assert names(again.replicas[0]) == names(berlin.own)


async def test_a_restarted_home_is_followed_again() -> None:
    async with Zone(100) as tokyo:
        async with Zone(0) as berlin:
            tokyo.follow(berlin)
            await asyncio.gather(*(berlin.create(f"m{n}") for n in range(20)))
            await tokyo.caught_up_with(berlin)
            berlin.cut()
        async with Zone(0, berlin.store) as again:
            berlin.ring, berlin.own, berlin.reachable = again.ring, again.own, True
            await again.create("after the restart")
            await tokyo.caught_up_with(berlin)
            assert names(tokyo.replicas[0]) == names(again.own)


async def test_a_record_flipped_in_the_replica_by_hand_is_repaired_on_the_next_stream() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await asyncio.gather(*(berlin.create(f"m{n}") for n in range(20)))
        await tokyo.caught_up_with(berlin)
        await tokyo.store.txn(Txn({}, puts={tokyo.keyspace.replica(0) + "market/107": encode(market("rotten"))}))
        tokyo.cut()
        await until(lambda s: s.state is State.DOWN, tokyo, 0)
        tokyo.heal()
        await until(lambda s: s.state is State.TAIL, tokyo, 0)
        assert names(tokyo.replicas[0]) == names(berlin.own)
        stored = await tokyo.store.get(tokyo.keyspace.replica(0) + "market/107")
        assert stored is not None
        assert stored.value == berlin.own.tree.get("market/107")


@pytest.mark.parametrize(
    ("records", "signer", "why"),
    [
        ({"market/100000100": encode(market("of tokyo"))}, None, "not its own"),
        ({"market/7000100": encode(market("of a third zone"))}, None, "not its own"),
        ({"market/100": encode(market("wrong key"))}, key_of(100), "signed by key"),
    ],
    ids=["follower's own id", "third zone's id", "another zone's key"],
)
async def test_a_forged_commit_is_refused_and_nothing_of_it_is_stored(
    records: dict[str, bytes], signer: object, why: str
) -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await berlin.create("honest")
        await tokyo.caught_up_with(berlin)
        before = await tokyo.store.snapshot("/fedmarket/1/")
        berlin.own._key = (signer or berlin.key).public  # type: ignore[attr-defined]
        await forge(berlin, records, signer=signer)  # type: ignore[arg-type]
        await until(lambda s: s.state is State.REFUSED, tokyo, 0)
        assert why in tokyo.links[0].status.last_error
        assert (await tokyo.store.snapshot("/fedmarket/1/")).items == before.items
        assert list(names(tokyo.replicas[0]).values()) == ["honest"]


async def test_a_head_that_names_another_zone_is_refused() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        await berlin.create("m")
        state = berlin.own.state
        assert state is not None
        lie = seal(replace(state.head.head, zone=7), berlin.key)
        berlin.ring.state = replace(state, head=lie)
        tokyo.follow(berlin)
        await until(lambda s: s.state is State.REFUSED, tokyo, 0)
        assert (await tokyo.store.snapshot(tokyo.keyspace.replica(0))).items == []


async def test_two_different_heads_of_one_pair_are_a_fork_and_nothing_is_applied() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await berlin.create("m")
        await tokyo.caught_up_with(berlin)
        tokyo.cut()
        await until(lambda s: s.state is State.DOWN, tokyo, 0)
        state = berlin.own.state
        assert state is not None
        tree = state.tree.apply({"market/101": encode(market("other history"))})
        twin = seal(replace(state.head.head, root=tree.root, count=tree.count), berlin.key)
        berlin.ring._entries.clear()
        berlin.ring.state = replace(state, head=twin, tree=tree)
        tokyo.heal()
        await until(lambda s: s.state is State.FORKED, tokyo, 0)
        assert list(names(tokyo.replicas[0]).values()) == ["m"]


async def test_an_older_head_is_never_applied() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await berlin.create("one")
        old = berlin.own.state
        await berlin.create("two")
        await tokyo.caught_up_with(berlin)
        tokyo.cut()
        await until(lambda s: s.state is State.DOWN, tokyo, 0)
        berlin.ring._entries.clear()
        berlin.ring.state = old
        tokyo.heal()
        await until(lambda s: "older" in s.last_error, tokyo, 0)
        assert sorted(names(tokyo.replicas[0]).values()) == ["one", "two"]


async def test_records_and_kinds_of_a_newer_version_are_kept_as_they_came() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await berlin.writer.commit(lambda draft: draft._new.__setitem__("x-new-kind/100", b"\xff from the future"))
        await tokyo.caught_up_with(berlin)
        assert tokyo.replicas[0].tree.get("x-new-kind/100") == b"\xff from the future"


async def test_two_agents_of_one_zone_follow_the_same_peer() -> None:
    async with Zone(0) as berlin, Zone(100) as one, Zone(100, one.store) as two:
        one.follow(berlin)
        two.follow(berlin)
        await asyncio.gather(*(berlin.create(f"m{n}") for n in range(100)))
        await berlin.delete(120)
        await asyncio.gather(one.caught_up_with(berlin), two.caught_up_with(berlin))
        assert names(one.replicas[0]) == names(two.replicas[0]) == names(berlin.own)
