"""What a follower accepts of its peer, message by message."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from federation.commit import CatalogState
from federation.head import SealedHead, seal
from federation.link.ring import Ring
from federation.link.sink import Action, Close, Fence, Send, Sink, State, Write
from federation.link.source import Source
from federation.records import encode
from federation.tree import Tree
from fedmarket.pb.fedmarket.v1.peer_pb2 import Beat, Bucket, Commit, Diff, Entry, FromSource, Welcome
from tests.support.federation import Zone, key_of, market


class History:
    """Consecutive commits of zone 0, each of which renames market/100 or creates another market."""

    def __init__(self, ring: Ring, states: list[CatalogState]) -> None:
        self.ring = ring
        self.states = states

    def commit(self, n: int) -> FromSource:
        """Return the n-th commit as it is sent."""
        entry = self.ring.after(self.states[n - 1].head.pair)
        assert entry is not None
        return FromSource(commit=entry.message)


async def history(commits: int) -> History:
    async with Zone(0) as zone:
        states: list[CatalogState] = []
        for n in range(commits):
            await (zone.rename(100, f"m{n}") if n % 2 else zone.create(f"m{n}"))
            assert zone.own.state is not None
            states.append(zone.own.state)
        return History(zone.ring, states)


def sink_at(state: CatalogState) -> Sink:
    """Return a sink that has stored a state and was greeted by a peer that has the same."""
    sink = Sink(100, 0, key_of(0).public, state.head, state.tree)
    assert sink.receive(FromSource(welcome=Welcome(protocol=1, head=state.head.signed))) == []
    return sink


def sealed(state: CatalogState, tree: Tree, **changes: object) -> SealedHead:
    head = replace(state.head.head, root=tree.root, count=tree.count, seq=state.head.head.seq + 1, prev=state.head.hash)
    return seal(replace(head, **changes), key_of(0))  # type: ignore[arg-type]


def diff_of(state: CatalogState) -> FromSource:
    return FromSource(diff=Diff(head=state.head.signed, buckets=state.tree.digests))


def closed(actions: list[Action]) -> Close:
    [close] = actions
    assert isinstance(close, Close)
    return close


def asked_for_a_diff(actions: list[Action]) -> bool:
    [send] = actions
    return isinstance(send, Send) and send.message.hello.diff


async def test_commits_that_came_together_are_folded_into_one_write_with_the_last_value_of_each_record() -> None:
    past = await history(4)
    sink = sink_at(past.states[0])
    for n in (1, 2, 3):
        assert sink.receive(past.commit(n)) == []
    write = sink.flush()
    assert write is not None
    assert write.puts == dict(past.states[3].tree.items())
    assert write.head == past.states[3].head.encode()
    [ack] = sink.wrote()
    assert isinstance(ack, Send)
    assert (ack.message.ack.epoch, ack.message.ack.seq) == past.states[3].head.pair
    assert (sink.current, sink.have) == (True, past.states[3].head)
    assert sink.flush() is None


async def test_a_commit_that_is_not_the_next_one_leads_to_a_diff_from_what_is_stored() -> None:
    past = await history(4)
    sink = sink_at(past.states[0])
    sink.receive(past.commit(1))
    actions = sink.receive(past.commit(3))
    assert asked_for_a_diff(actions)
    assert isinstance(actions[0], Send)
    assert actions[0].message.hello.have == past.states[0].head.signed
    assert sink.flush() is None
    assert sink.receive(past.commit(2)) == []  # still on its way when the peer is asked: it has no meaning any more
    assert sink.flush() is None


async def test_a_commit_whose_records_do_not_make_its_root_is_not_taken() -> None:
    past = await history(2)
    sink = sink_at(past.states[0])
    wrong = Commit(head=past.states[1].head.signed, puts=[Entry(key="market/100", value=b"other bytes")])
    assert asked_for_a_diff(sink.receive(FromSource(commit=wrong)))
    assert sink.flush() is None


async def test_a_commit_whose_count_is_wrong_is_not_taken() -> None:
    past = await history(1)
    state = past.states[0]
    head = sealed(state, state.tree, count=7)
    assert asked_for_a_diff(sink_at(state).receive(FromSource(commit=Commit(head=head.signed))))


async def test_a_diff_that_comes_after_commits_that_were_not_stored_yet_replaces_them() -> None:
    past = await history(4)
    sink = sink_at(past.states[0])
    sink.receive(past.commit(1))
    assert sink.receive(diff_of(past.states[3])) == [Fence(past.states[0].head.encode())]
    asked = sink.fenced(past.states[0].tree)
    assert isinstance(asked[0], Send)
    assert asked[0].message.HasField("want")
    assert sink.flush() is None
    assert sink.have == past.states[0].head


@pytest.mark.parametrize("stored", [None, 0], ids=["nothing stored", "an older commit stored"])
async def test_a_diff_ends_with_the_records_of_its_head_and_each_write_fences_other_agents(stored: int | None) -> None:
    past = await history(6)
    before = past.states[stored].tree if stored is not None else Tree.empty()
    have = past.states[stored].head if stored is not None else None
    source = Source(past.ring, 100, lambda: None)
    sink = Sink(100, 0, key_of(0).public, have, before)
    past.ring._entries.clear()
    source.receive(sink.hello())
    tree, writes, todo = before, [], list[Action]()
    while not sink.current:
        if not todo:
            message = source.next()
            assert message is not None
            todo = sink.receive(message)
            continue
        match todo.pop(0):
            case Send(answer):
                source.receive(answer)
            case Fence(head):
                assert head == (have.encode() if have else b"")
                todo += sink.fenced(before)
            case Write() as write:
                writes.append(write)
                tree = tree.apply(write.puts, write.deletes)
                todo += sink.wrote()
            case Close(reason):
                pytest.fail(reason)
    assert (tree.root, sink.have) == (past.states[5].tree.root, past.states[5].head)
    assert [write.head for write in writes[:-1]] == [have.encode() if have else b""] * (len(writes) - 1)
    assert writes[-1] == Write(head=past.states[5].head.encode())
    assert sink.state is State.TAIL


async def test_a_record_that_only_the_replica_has_is_dropped_by_a_diff_whatever_its_id() -> None:
    past = await history(1)
    state, stray = past.states[0], "market/7000100"
    mix = state.tree.apply({stray: encode(market("put there by hand"))})
    sink = sink_at(state)
    sink.receive(diff_of(state))
    [asked] = sink.fenced(mix)
    assert isinstance(asked, Send)
    index = asked.message.want.bucket
    [write] = sink.receive(FromSource(bucket=Bucket(index=index, deletes=[stray], last=True)))
    assert isinstance(write, Write)
    assert write.deletes == (stray,)
    assert list(write.lost) == [stray]


def own_key(state: CatalogState) -> FromSource:
    records = {"market/100000100": b"of the follower"}
    head = sealed(state, state.tree.apply(records))
    entries = [Entry(key=key, value=value) for key, value in records.items()]
    return FromSource(commit=Commit(head=head.signed, puts=entries))


def other_key(state: CatalogState) -> FromSource:
    return FromSource(beat=Beat(head=seal(state.head.head, key_of(7)).signed))


def other_zone(state: CatalogState) -> FromSource:
    return FromSource(beat=Beat(head=sealed(state, state.tree, zone=7).signed))


def wrong_buckets(state: CatalogState) -> FromSource:
    return FromSource(diff=Diff(head=sealed(state, state.tree).signed, buckets=Tree.of({"a/1": b""}).digests))


def too_few_buckets(state: CatalogState) -> FromSource:
    return FromSource(diff=Diff(head=sealed(state, state.tree).signed, buckets=state.tree.digests[:255]))


def unasked_bucket(state: CatalogState) -> FromSource:
    return FromSource(bucket=Bucket(index=0, last=True))


def other_protocol(state: CatalogState) -> FromSource:
    return FromSource(welcome=Welcome(protocol=2, head=state.head.signed))


def too_many_records(state: CatalogState) -> FromSource:
    records = {f"market/{n}": b"" for n in range(200, 300)}
    head = sealed(state, state.tree.apply(records))
    entries = [Entry(key=key, value=value) for key, value in records.items()]
    return FromSource(commit=Commit(head=head.signed, puts=entries))


@pytest.mark.parametrize(
    "lie",
    [own_key, other_key, other_zone, wrong_buckets, too_few_buckets, unasked_bucket, other_protocol, too_many_records],
)
async def test_what_no_honest_peer_sends_is_refused_and_writes_nothing(
    lie: Callable[[CatalogState], FromSource],
) -> None:
    past = await history(2)
    sink = sink_at(past.states[1])
    assert closed(sink.receive(lie(past.states[1]))).state is State.REFUSED
    assert sink.flush() is None


async def test_a_bucket_that_is_not_what_the_head_covers_ends_the_stream_unwritten() -> None:
    past = await history(3)
    sink = sink_at(past.states[0])
    sink.receive(diff_of(past.states[2]))
    [asked] = sink.fenced(past.states[0].tree)
    assert isinstance(asked, Send)
    close = closed(sink.receive(FromSource(bucket=Bucket(index=asked.message.want.bucket, last=True))))
    assert close.state is State.DOWN
    assert "does not match" in close.reason


async def test_a_head_older_than_what_is_stored_is_never_applied() -> None:
    past = await history(3)
    for old in (
        FromSource(welcome=Welcome(protocol=1, head=past.states[1].head.signed)),
        FromSource(beat=Beat(head=past.states[1].head.signed)),
        diff_of(past.states[1]),
        past.commit(1),
    ):
        close = closed(sink_at(past.states[2]).receive(old))
        assert (close.state, "older" in close.reason) == (State.DOWN, True)


async def test_two_heads_of_one_place_are_a_fork_wherever_they_are_seen() -> None:
    past = await history(2)
    state = past.states[1]
    twin = seal(replace(state.head.head, agent="another"), key_of(0)).signed
    for message in (
        FromSource(welcome=Welcome(protocol=1, head=twin)),
        FromSource(beat=Beat(head=twin)),
        FromSource(commit=Commit(head=twin)),
        FromSource(diff=Diff(head=twin, buckets=state.tree.digests)),
    ):
        assert closed(sink_at(state).receive(message)).state is State.FORKED


async def test_a_beat_of_a_head_that_is_not_ours_leads_to_a_diff() -> None:
    past = await history(2)
    assert asked_for_a_diff(sink_at(past.states[0]).receive(FromSource(beat=Beat(head=past.states[1].head.signed))))


async def test_a_beat_of_our_head_says_that_we_are_current() -> None:
    past = await history(1)
    sink = sink_at(past.states[0])
    assert not sink.current
    assert sink.receive(FromSource(beat=Beat(head=past.states[0].head.signed))) == []
    assert (sink.current, sink.state) == (True, State.TAIL)


@pytest.mark.parametrize("flipped", [False, True], ids=["as committed", "flipped by hand"])
async def test_the_hello_says_whether_the_stored_records_match_their_head(flipped: bool) -> None:
    past = await history(1)
    state = past.states[0]
    tree = state.tree.apply({"market/100": b"rotten"}) if flipped else state.tree
    hello = Sink(100, 0, key_of(0).public, state.head, tree).hello().hello
    assert (hello.zone, hello.have, hello.diff) == (100, state.head.signed, flipped)
