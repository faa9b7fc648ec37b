"""What a peer may say to a link: the events of the tables in docs/replication.md that are messages."""

from collections.abc import Callable
from typing import Any

from federation.head import PRIVATE
from federation.tree import bucket_index
from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead
from fedmarket.pb.fedmarket.v1.peer_pb2 import Bucket, Commit, Diff, Entry, FromSource, Refuse
from tests.support.federation import key_of
from tests.support.states import (
    AFTER_NEXT,
    HELD,
    LAST,
    ME,
    NEXT,
    OLDER,
    beat,
    commit_of,
    diff_of,
    resealed,
    welcome,
)

TWIN = resealed(HELD, agent="another")
OF_ANOTHER_KEY = resealed(NEXT, key_of(7))
OF_ANOTHER_ZONE = resealed(NEXT, zone=7)
OURS = resealed(NEXT, key_of(ME), zone=ME)
OF_THE_PRIVATE_CATALOG = resealed(NEXT, catalog=PRIVATE)


def lying_commit(records: dict[str, bytes], **fields: object) -> FromSource:
    """Return the commit after ours, with these records and a head that covers them."""
    tree = HELD.tree.apply(records)
    pair = HELD.head.pair[1] + 1
    covering: dict[str, Any] = {"seq": pair, "prev": HELD.head.hash, "root": tree.root, "count": tree.count, **fields}
    entries = [Entry(key=key, value=value) for key, value in records.items()]
    return FromSource(commit=Commit(head=resealed(HELD, **covering), puts=entries))


def commit_under(head: SignedHead) -> FromSource:
    """Return the next commit under another head."""
    commit = Commit()
    commit.CopyFrom(commit_of(NEXT))
    commit.head.CopyFrom(head)
    return FromSource(commit=commit)


def refuse(code: str) -> FromSource:
    return FromSource(refuse=Refuse(code=code, text="for a test"))


SAID: dict[str, FromSource] = {
    "before the Welcome: Commit": FromSource(commit=commit_of(NEXT)),
    "before the Welcome: Beat": beat(HELD.head.signed),
    "before the Welcome: Diff": diff_of(LAST),
    "before the Welcome: Bucket": FromSource(bucket=Bucket(index=0, last=True)),
    "Welcome: our head": welcome(HELD.head.signed),
    "Welcome: a newer head": welcome(LAST.head.signed),
    "Welcome: an older head": welcome(OLDER.head.signed),
    "Welcome: our pair, another hash": welcome(TWIN),
    "Welcome: not signed by the pinned key": welcome(OF_ANOTHER_KEY),
    "Welcome: of another zone": welcome(OF_ANOTHER_ZONE),
    "Welcome: of the private catalog": welcome(OF_THE_PRIVATE_CATALOG),
    "Welcome: a protocol that we do not speak": welcome(HELD.head.signed, protocol=2),
    "Welcome: a head of ours that the peer holds (`yours`)": welcome(HELD.head.signed, yours=OURS),
    "Commit: the next": FromSource(commit=commit_of(NEXT)),
    "Commit: one after the next (gap)": FromSource(commit=commit_of(AFTER_NEXT)),
    "Commit: the next pair, another prev": commit_under(resealed(NEXT, prev=OLDER.head.hash)),
    "Commit: the one that we hold": FromSource(commit=commit_of(HELD)),
    "Commit: an older one": FromSource(commit=commit_of(OLDER)),
    "Commit: our pair, another hash": commit_under(TWIN),
    "Commit: of a newer epoch": commit_under(resealed(NEXT, epoch=2, seq=1)),
    "Commit: another root than its records make": commit_under(resealed(NEXT, root=LAST.tree.root)),
    "Commit: another count than its records make": commit_under(resealed(NEXT, count=7)),
    "Commit: a key of another zone's range": lying_commit({"market/7000100": b"of zone 7"}),
    "Commit: a key outside the grammar": lying_commit({"lost/1": b"no record"}),
    "Commit: a record over 256 KiB": lying_commit({"market/105": bytes((256 << 10) + 1)}),
    "Commit: more than one transaction takes": lying_commit({f"market/{n}": b"" for n in range(200, 300)}),
    "Commit: not signed by the pinned key": commit_under(OF_ANOTHER_KEY),
    "Commit: of another zone, or of the private catalog": commit_under(OF_ANOTHER_ZONE),
    "Beat: our head": beat(HELD.head.signed),
    "Beat: a newer head": beat(NEXT.head.signed),
    "Beat: an older head": beat(OLDER.head.signed),
    "Beat: our pair, another hash": beat(TWIN),
    "Beat: not signed by the pinned key, or of another zone": beat(OF_ANOTHER_KEY),
    "Diff: a newer head": diff_of(AFTER_NEXT),
    "Diff: our head, and our records are its records": diff_of(HELD),
    "Diff: an older head": diff_of(OLDER),
    "Diff: our pair, another hash": diff_of(HELD, TWIN),
    "Diff: digests that do not hash to the root": diff_of(HELD, LAST.head.signed),
    "Diff: other than 256 digests": FromSource(diff=Diff(head=LAST.head.signed, buckets=LAST.tree.digests[:255])),
    "Diff: not signed by the pinned key, or of another zone": diff_of(NEXT, OF_ANOTHER_KEY),
    "Refuse: stale": refuse("stale"),
    "Refuse: busy": refuse("busy"),
    "Refuse: zone": refuse("zone"),
    "Refuse: protocol": refuse("protocol"),
    "Refuse: a code that we do not know": refuse("later"),
    "anything else: a message that we do not know": FromSource(),
}


def foreign(bucket: Bucket) -> None:
    bucket.puts.append(Entry(key="market/7000100", value=b"of zone 7"))


def of_another_bucket(bucket: Bucket) -> None:
    key = next(key for n in range(500, 600) if bucket_index(key := f"market/{n}") != bucket.index)
    bucket.puts.append(Entry(key=key, value=b""))


def more_than_counted(bucket: Bucket) -> None:
    bucket.puts.extend(Entry(key=f"market/{n}", value=b"") for n in range(500, 600))
    bucket.last = False


def unasked(bucket: Bucket) -> None:
    missing(bucket)
    bucket.index = (bucket.index + 1) % 256


def missing(bucket: Bucket) -> None:
    del bucket.puts[:]
    del bucket.deletes[:]


def too_large(bucket: Bucket) -> None:
    bucket.puts[0].value = bytes((256 << 10) + 1)


BUCKETS: dict[str, Callable[[Bucket], None]] = {
    "Bucket: asked for, right, and others differ": lambda bucket: None,
    "Bucket: a part that is not the last": lambda bucket: setattr(bucket, "last", False),
    "Bucket: records that do not make its digest": missing,
    "Bucket: one that was not asked for": unasked,
    "Bucket: a key of another zone's range, or outside the grammar": foreign,
    "Bucket: records of another bucket": of_another_bucket,
    "Bucket: more records than the head counts": more_than_counted,
    "Bucket: a record over 256 KiB": too_large,
}
