"""What a home says on one stream: commits while its ring reaches back, else the buckets of one state."""

from dataclasses import replace
from functools import partial

import pytest

from federation.catalog import Publication
from federation.draft import Draft
from federation.link.ring import Ring
from federation.link.source import BUCKET_PART_BYTES, Refusal, Source
from federation.tree import bucket_index
from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead
from fedmarket.pb.fedmarket.v1.peer_pb2 import Ack, FromSink, FromSource, Have, Hello, Want
from tests.support.federation import Zone, key_of


def hello(have: SignedHead | None = None, *, zone: int = 100, diff: bool = False, protocol: int = 1) -> FromSink:
    return FromSink(hello=Hello(zone=zone, protocol_min=protocol, protocol_max=protocol, have=have, diff=diff))


def source_of(zone: Zone) -> Source:
    return Source(zone.ring, 100, lambda: None)


def said(source: Source) -> list[FromSource]:
    messages = []
    while (message := source.next()) is not None:
        messages.append(message)
    return messages


def put_raw(draft: Draft, key: str) -> None:
    """Put a large record of a kind that this version does not know."""
    draft._new[key] = b"x" * 200_000


def kinds(messages: list[FromSource]) -> list[str | None]:
    return [message.WhichOneof("message") for message in messages]


def signed(zone: Zone) -> SignedHead:
    assert zone.own.state is not None
    return zone.own.state.head.signed


async def test_a_follower_without_anything_is_given_the_current_state() -> None:
    async with Zone(0) as zone:
        await zone.create("m")
        source = source_of(zone)
        source.receive(hello())
        welcome, diff = said(source)
        assert welcome.welcome.head == diff.diff.head == signed(zone)
        assert list(diff.diff.buckets) == list(zone.own.tree.digests)


async def test_a_follower_that_is_current_hears_so() -> None:
    async with Zone(0) as zone:
        source = source_of(zone)
        source.receive(hello(signed(zone)))
        assert kinds(said(source)) == ["welcome", "beat"]


async def test_a_follower_within_the_ring_is_told_what_it_missed_commit_by_commit() -> None:
    async with Zone(0) as zone:
        have = signed(zone)
        for name in "abc":
            await zone.create(name)
        await zone.delete(101)
        source = source_of(zone)
        source.receive(hello(have))
        messages = said(source)
        assert kinds(messages) == ["welcome", "commit", "commit", "commit", "commit"]
        assert [entry.key for entry in messages[1].commit.puts] == ["market/100"]
        assert list(messages[4].commit.deletes) == ["market/101"]
        assert source.next() is None
        await zone.create("d")
        assert kinds(said(source)) == ["commit"]


async def test_a_follower_that_says_its_records_do_not_match_is_given_the_current_state() -> None:
    async with Zone(0) as zone:
        source = source_of(zone)
        source.receive(hello(signed(zone), diff=True))
        assert kinds(said(source)) == ["welcome", "diff"]


async def test_a_head_that_this_home_never_had_is_answered_with_the_current_state() -> None:
    async with Zone(0) as zone, Zone(7) as other:
        await zone.create("m")
        source = source_of(zone)
        source.receive(hello(signed(other)))
        assert kinds(said(source)) == ["welcome", "diff"]


async def test_a_follower_that_falls_out_of_the_ring_on_the_stream_is_given_a_diff() -> None:
    async with Zone(0, ring_bytes=0) as zone:
        source = source_of(zone)
        source.receive(hello(signed(zone)))
        assert kinds(said(source)) == ["welcome", "beat"]
        await zone.create("m")
        assert kinds(said(source)) == ["diff"]


async def test_commits_before_a_gap_in_what_the_home_saw_are_told_no_more() -> None:
    """The home's own catalog was listed again: which commits led there is not known."""
    async with Zone(0) as zone:
        seen = Ring()

        def publish(publication: Publication) -> None:
            seen.publish(replace(publication, consecutive=publication.state.head.pair != (1, 4)))

        zone.own.listen(publish)
        for name in "abcde":
            await zone.create(name)
        assert seen.after((1, 2)) is None
        assert seen.after((1, 3)) is None
        following = seen.after((1, 4))
        assert following is not None
        assert following.head.pair == (1, 5)


async def test_nothing_else_is_said_until_the_diff_is_acknowledged() -> None:
    async with Zone(0) as zone:
        source = source_of(zone)
        source.receive(hello())
        assert kinds(said(source)) == ["welcome", "diff"]
        epoch, seq = zone.own.pair
        await zone.create("m")
        assert source.next() is None
        source.receive(FromSink(ack=Ack(epoch=epoch, seq=seq)))
        assert kinds(said(source)) == ["commit"]


async def test_a_bucket_holds_what_the_follower_lacks_and_names_what_it_must_drop() -> None:
    async with Zone(0) as zone:
        for n in range(3):
            await zone.create(f"m{n}")
        source = source_of(zone)
        source.receive(hello())
        said(source)
        index = bucket_index("market/101")
        leaf = zone.own.tree.bucket(index)["market/101"].digest
        source.receive(FromSink(want=Want(bucket=index, have=[Have(key="market/999", leaf=leaf)])))
        [answer] = said(source)
        assert [entry.key for entry in answer.bucket.puts] == sorted(zone.own.tree.bucket(index))
        assert (list(answer.bucket.deletes), answer.bucket.last) == (["market/999"], True)
        source.receive(FromSink(want=Want(bucket=index, have=[Have(key="market/101", leaf=leaf)])))
        [answer] = said(source)
        assert "market/101" not in [entry.key for entry in answer.bucket.puts]


async def test_a_large_bucket_comes_in_parts_below_the_limit_of_a_message() -> None:
    async with Zone(0) as zone:
        keys = [key for n in range(100, 3000) if bucket_index(key := f"x-large/{n}") == 7]
        for key in keys:
            await zone.writer.commit(partial(put_raw, key=key))
        source = source_of(zone)
        source.receive(hello())
        said(source)
        source.receive(FromSink(want=Want(bucket=7)))
        parts = said(source)
        assert len(keys) * 200_000 > BUCKET_PART_BYTES
        assert all(part.ByteSize() < 2 << 20 for part in parts)
        assert [part.bucket.last for part in parts] == [False] * (len(parts) - 1) + [True]
        assert sorted(entry.key for part in parts for entry in part.bucket.puts) == sorted(keys)


async def test_the_buckets_are_those_of_the_state_that_was_announced_even_when_the_catalog_moves_on() -> None:
    async with Zone(0) as zone:
        await zone.create("before")
        source = source_of(zone)
        source.receive(hello())
        said(source)
        await zone.rename(100, "after")
        source.receive(FromSink(want=Want(bucket=bucket_index("market/100"))))
        [answer] = said(source)
        assert b"before" in answer.bucket.puts[0].value


async def test_a_state_that_is_held_no_longer_is_refused_as_stale() -> None:
    async with Zone(0) as zone:
        source = source_of(zone)
        source.receive(hello())
        said(source)
        source.drop_diff()
        with pytest.raises(Refusal) as refused:
            source.receive(FromSink(want=Want(bucket=0)))
        assert refused.value.message.refuse.code == "stale"


async def test_after_a_state_was_dropped_no_commit_follows_into_the_unfinished_diff() -> None:
    async with Zone(0) as zone:
        source = source_of(zone)
        source.receive(hello())
        said(source)
        source.drop_diff()
        await zone.create("m")
        assert source.next() is None


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (hello(zone=7), "zone"),
        (hello(protocol=2), "protocol"),
        (FromSink(want=Want(bucket=0)), "protocol"),
        (FromSink(ack=Ack(epoch=1, seq=1)), "protocol"),
        (FromSink(), "protocol"),
    ],
    ids=["another zone than the certificate", "unknown protocol", "Want first", "Ack first", "nothing"],
)
async def test_a_stream_that_does_not_begin_as_it_should_is_refused(message: FromSink, code: str) -> None:
    async with Zone(0) as zone:
        with pytest.raises(Refusal) as refused:
            source_of(zone).receive(message)
        assert refused.value.message.refuse.code == code


async def test_a_bucket_that_does_not_exist_is_refused() -> None:
    async with Zone(0) as zone:
        source = source_of(zone)
        source.receive(hello())
        with pytest.raises(Refusal, match="256"):
            source.receive(FromSink(want=Want(bucket=256)))


def test_a_home_whose_catalog_is_not_open_yet_is_busy() -> None:
    with pytest.raises(Refusal) as refused:
        Source(Ring(), 100, lambda: None).receive(hello())
    assert refused.value.message.refuse.code == "busy"


async def test_the_followers_own_head_is_shown_to_it_in_the_welcome() -> None:
    async with Zone(0) as zone, Zone(100) as follower:
        source = Source(zone.ring, 100, lambda: signed(follower))
        source.receive(hello())
        assert said(source)[0].welcome.yours == signed(follower)
        assert signed(follower).key_id == key_of(100).public.key_id
