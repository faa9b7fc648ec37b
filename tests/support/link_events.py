"""How a test leads a link into each of its states, and every event of the link's tables in docs/replication.md."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from unittest.mock import patch

import pytest

from federation.commit import CatalogState
from federation.keys import HEAD
from federation.link import sink
from federation.link.sink import State
from federation.tree import bucket_index
from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead
from fedmarket.pb.fedmarket.v1.peer_pb2 import Bucket, FromSource, Want
from tests.support.federation import key_of
from tests.support.link_messages import BUCKETS, OF_ANOTHER_KEY, OURS, SAID, TWIN
from tests.support.states import (
    AFTER_NEXT,
    HELD,
    LAST,
    NEXT,
    OLDER,
    PAUSE_SECONDS,
    Bench,
    beat,
    bucket_for,
    commit_of,
    diff_of,
    resealed,
    settle,
    welcome,
)

Step = Callable[[Bench], Awaitable[None]]


# -- how a state is reached. What is true of DOWN after the Welcome is true of DIFF between its Welcome and its Diff.


async def dialled(bench: Bench) -> None:
    """The follower has said Hello."""


async def greeted(bench: Bench) -> None:
    await bench.say(welcome(HELD.head.signed))


async def tail(bench: Bench) -> None:
    await greeted(bench)
    await bench.say(beat(HELD.head.signed))


async def asked(bench: Bench) -> None:
    """The follower has missed a commit, and asked for a DIFF."""
    await tail(bench)
    await bench.say(beat(NEXT.head.signed))


async def answered(bench: Bench) -> None:
    await asked(bench)
    await bench.say(welcome(LAST.head.signed))


async def fetching(bench: Bench) -> None:
    """The first of several buckets was asked for."""
    await answered(bench)
    await bench.say(diff_of(LAST))


async def forked(bench: Bench) -> None:
    await bench.say(welcome(TWIN))


async def shared(bench: Bench) -> None:
    """The peer's agents write into our own etcd."""
    await bench.write_at_home(HELD)
    await bench.write_at_home(NEXT)


async def refused(bench: Bench) -> None:
    await bench.say(welcome(OF_ANOTHER_KEY))


WAYS: dict[str, list[Step]] = {
    "DOWN": [greeted, answered],
    "TAIL": [tail],
    "DIFF": [fetching],
    "FORKED": [forked],
    "REFUSED": [refused],
    "SHARED": [shared],
}
BEFORE_THE_WELCOME: dict[str, list[Step]] = {"DOWN": [dialled], "DIFF": [asked]}
ANY_TIME: dict[str, list[Step]] = {"DOWN": [dialled, greeted], "DIFF": [asked, answered, fetching]}

THE_THIRD_IN_A_ROW = "the stream: it ends before a word of the peer, the third in a row"
WAYS_FOR: dict[str, dict[str, list[Step]]] = {
    "before the Welcome": BEFORE_THE_WELCOME,
    "Welcome": ANY_TIME,
    "Refuse": ANY_TIME,
    "the stream": ANY_TIME,
    THE_THIRD_IN_A_ROW: BEFORE_THE_WELCOME,
    "a person": ANY_TIME,
}


def ways(event: str, state: str) -> list[Step]:
    """Return the ways into a state in which an event can happen."""
    of_event = WAYS_FOR.get(event) or WAYS_FOR.get(event.partition(":")[0], {})
    return of_event.get(state, WAYS[state])


# -- what happens


def say(message: FromSource) -> Step:
    return lambda bench: bench.say(message)


def say_bucket(change: Callable[[Bucket], None]) -> Step:
    async def event(bench: Bench) -> None:
        want = bench.want if any(m.HasField("want") for m in bench.heard) else Want(bucket=bucket_index("market/103"))
        bucket = bucket_for(want)
        change(bucket)
        await bench.say(FromSource(bucket=bucket))

    return event


async def commits_at_once(bench: Bench) -> None:
    """So that the first is verified and not stored yet when the second is read."""
    assert bench.peer is not None
    for state in (NEXT, LAST):
        bench.peer._outgoing.put_nowait(FromSource(commit=commit_of(state)))
    await settle()


async def all_buckets(bench: Bench) -> None:
    await bench.say(FromSource(bucket=bucket_for(bench.want if bench.heard[-1].HasField("want") else Want())))
    await bench.answer()


async def diff_that_repairs(bench: Bench) -> None:
    await bench.put("market/100", b"changed by hand")
    await bench.mark()
    await bench.say(diff_of(HELD))


async def diff_with_another_count(bench: Bench) -> None:
    await bench.say(diff_of(LAST, resealed(LAST, count=7)))
    await bench.answer()


async def silence(bench: Bench) -> None:
    await settle(7)


async def hang_up(bench: Bench) -> None:
    await bench.hang_up()


async def unreachable(bench: Bench) -> None:
    bench.reachable = False
    await bench.hang_up()
    await settle(PAUSE_SECONDS)


async def too_many_bytes(bench: Bench) -> None:
    with patch.object(sink, "MAX_BUCKET_BYTES", 10):  # which nobody wants to send in a test
        await say_bucket(lambda bucket: None)(bench)


async def unheard_for_the_third_time(bench: Bench) -> None:
    for _ in range(2):
        await bench.hang_up()
        await settle(PAUSE_SECONDS)
    await bench.mark()
    await bench.hang_up()
    assert "perhaps not trusted there" in bench.link.status.last_error


async def store_refuses(bench: Bench) -> None:
    """For longer than the peer may be silent; then it takes what it refused."""
    if bench.direct.shared:
        await bench.write_at_home(AFTER_NEXT, seconds=0.5)  # which is kept a second later
    bench.store.down = True
    if bench.peer is None:
        await settle(7)
        return
    bucket = bench.heard[-1].HasField("want")
    await bench.say(FromSource(bucket=bucket_for(bench.want)) if bucket else FromSource(commit=commit_of(NEXT)))
    with suppress(TimeoutError):
        async with asyncio.timeout(10):
            for _ in range(1000):
                await bench.peer.send(beat(NEXT.head.signed))
            pytest.fail("the peer is read although nothing can be stored")
    bench.waited = (await bench.look()).stored == bench.before.stored
    bench.store.down = False
    await settle(3)


async def store_loses_the_answer(bench: Bench) -> None:
    bench.store.losing = ["after"]
    if bench.peer is not None:
        await say_next(bench, FromSource(commit=commit_of(NEXT)))
    await settle()


async def watch_is_late(bench: Bench) -> None:
    bench.store.lag.watch = 30.0
    if bench.peer is not None:
        await bench.say(diff_of(AFTER_NEXT))
    await settle(5.5)


async def judge_while_the_store_is_down(bench: Bench) -> None:
    bench.store.down = True
    await bench.say(welcome(HELD.head.signed, yours=OURS))


async def head_changed_by_hand(bench: Bench) -> None:
    await bench.put(HEAD, b"no head")
    await bench.mark()
    if bench.direct.shared:
        await bench.write_at_home(AFTER_NEXT)
    if bench.peer is not None:
        await bench.hang_up()
        await settle(PAUSE_SECONDS)


async def one_head(bench: Bench) -> None:
    await bench.write_at_home(HELD)


async def two_heads(bench: Bench) -> None:
    if bench.before.status.state is not State.SHARED:
        await bench.write_at_home(HELD)
    await bench.write_at_home(AFTER_NEXT)


async def no_head_for_a_while(bench: Bench) -> None:
    await settle(15)


def head_at_home(head: SignedHead, state: CatalogState = LAST) -> Step:
    return lambda bench: bench.write_at_home(state, head)


async def twin_at_home(bench: Bench) -> None:
    seen = NEXT if bench.direct.shared else HELD
    await bench.write_at_home(seen, resealed(seen, agent="another"))


async def record_of_another_zone_at_home(bench: Bench) -> None:
    tree = LAST.tree.apply({"market/7000100": b"of zone 7"})
    covering = {"root": tree.root, "count": tree.count}
    await bench.write_at_home(replace(LAST, tree=tree), resealed(LAST, None, **covering))


async def retried(bench: Bench) -> None:
    bench.link.retry()
    await settle()


async def retried_while_no_stream_is_open(bench: Bench) -> None:
    if bench.peer is not None:
        await bench.hang_up()
        await bench.mark()
    await retried(bench)


async def restarted(bench: Bench) -> None:
    await bench.stop()
    await bench.start()


async def restarted_with_another_key(bench: Bench) -> None:
    await bench.stop()
    await bench.start(key_of(7))


async def store_refuses_as_a_stream_begins(bench: Bench) -> None:
    bench.store.down = True
    await bench.hang_up()
    await settle(PAUSE_SECONDS)


async def another_agent_was_faster(bench: Bench) -> None:
    await bench.put(HEAD, bench.before.stored[HEAD])
    await bench.mark()
    if bench.peer is not None:
        await say_next(bench, FromSource(commit=commit_of(NEXT)))


async def record_changed_by_hand(bench: Bench) -> None:
    await bench.put("market/100", b"changed by hand")
    await bench.mark()
    if bench.peer is not None:
        await say_next(bench, beat(HELD.head.signed))


async def say_next(bench: Bench, message: FromSource) -> None:
    """Answer what the follower has asked for; say the message if it waits for nothing."""
    if bench.heard[-1].HasField("want"):
        await bench.answer()
    else:
        await bench.say(message)


HAPPENS: dict[str, Step] = {
    "Commit: the next, and at once one after a gap": commits_at_once,
    "Bucket: asked for, right, and the last that differs": all_buckets,
    "Bucket: more than 256 MiB": too_many_bytes,
    "Diff: our head, and our records are others": diff_that_repairs,
    "Diff: another count than its buckets hold": diff_with_another_count,
    "the stream: silence for three beats": silence,
    "the stream: it breaks": hang_up,
    "the stream: it cannot be opened": unreachable,
    "Welcome: a head of ours (`yours`), and our etcd does not answer": judge_while_the_store_is_down,
    THE_THIRD_IN_A_ROW: unheard_for_the_third_time,
    "our etcd: refuses a write, for longer than three beats": store_refuses,
    "our etcd: writes, but its answer is lost": store_loses_the_answer,
    "our etcd: its watch is late, by more than we wait": watch_is_late,
    "our etcd: the head of the replica was changed by hand": head_changed_by_hand,
    "our etcd: does not answer as a stream begins": store_refuses_as_a_stream_begins,
    "our etcd: another agent has written the replica's head": another_agent_was_faster,
    "our etcd: a record of the replica was changed by hand": record_changed_by_hand,
    "a head at catalog/PEER/: the first": one_head,
    "a head at catalog/PEER/: another one within 15 s": two_heads,
    "a head at catalog/PEER/: none for 15 s": no_head_for_a_while,
    "a head at catalog/PEER/: older than one that was seen": head_at_home(OLDER.head.signed, OLDER),
    "a head at catalog/PEER/: the pair of one that was seen, another hash": twin_at_home,
    "a head at catalog/PEER/: not signed by the pinned key": head_at_home(resealed(LAST, key_of(7))),
    "a head at catalog/PEER/: of another zone, or of the private catalog": head_at_home(resealed(LAST, zone=7)),
    "a head at catalog/PEER/: over a record of another zone's range": record_of_another_zone_at_home,
    "a head at catalog/PEER/: over other records than are there": head_at_home(LAST.head.signed, AFTER_NEXT),
    "a person: retry": retried,
    "a person: retry, after the stream has ended": retried_while_no_stream_is_open,
    "a person: restart": restarted,
    "a person: restart with another key for the peer": restarted_with_another_key,
}

EVENTS: dict[str, Step] = {
    **{event: say(message) for event, message in SAID.items()},
    **{event: say_bucket(change) for event, change in BUCKETS.items()},
    **HAPPENS,
}
