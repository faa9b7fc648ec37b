"""What it may cost to follow a zone (I11): only what changed is sent, and only what differs is compared."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead
from fedmarket.pb.fedmarket.v1.peer_pb2 import Bucket, Commit, Diff, FromSink, FromSource, Have, Want
from tests.simulation.network import Wire
from tests.support.oracle import Home


@dataclass
class Talk:
    """What was said on one wire that later messages must be held against."""

    said: SignedHead | None = None
    """The head that the follower has said it has, unless it said that its records do not match it."""
    digests: list[bytes] = field(default_factory=list)
    wants: dict[int, Mapping[str, bytes]] = field(default_factory=dict)


class Traffic:
    """Checks each message against what its home has committed."""

    def __init__(self, homes: Mapping[int, Home]) -> None:
        self._homes = homes
        self._talks: dict[Wire, Talk] = {}

    def check(self, wire: Wire, message: FromSink | FromSource) -> None:
        """Check one message, all before it having been checked."""
        talk = self._talks.setdefault(wire, Talk())
        home = self._homes[wire.home.zone]
        match getattr(message, message.WhichOneof("message") or ""):
            case Commit() as commit:
                _check_commit(home, commit)
            case Diff() as diff:
                assert diff.head != talk.said, "I11: all was compared although the follower has what its home has"
                talk.digests = list(diff.buckets)
            case Want() as want:
                assert digest_of(want.have) != talk.digests[want.bucket], (
                    "I11: a bucket was asked for that does not differ"
                )
                talk.wants[want.bucket] = {have.key: have.leaf for have in want.have}
            case Bucket() as bucket:
                _check_bucket(talk.wants[bucket.index], bucket)
            case hello if isinstance(message, FromSink) and message.HasField("hello"):
                talk.said = None if hello.diff or not hello.HasField("have") else hello.have


def digest_of(have: Iterable[Have]) -> bytes:
    """Return the digest of a bucket with these leaves."""
    return hashlib.sha256(b"".join(leaf.leaf for leaf in sorted(have, key=lambda leaf: leaf.key))).digest()


def _check_commit(home: Home, commit: Commit) -> None:
    changed = home.changed.get(commit.head.SerializeToString())
    assert changed is not None, "I3: a head was sent whose commit was not known"
    sent = {entry.key for entry in commit.puts} | set(commit.deletes)
    assert sent <= changed, f"I11: a commit was sent with {len(sent - changed)} records that it did not change"


def _check_bucket(have: Mapping[str, bytes], bucket: Bucket) -> None:
    for entry in bucket.puts:
        leaf = hashlib.sha256(entry.key.encode() + b"\0" + entry.value).digest()
        assert have.get(entry.key) != leaf, "I11: a record was sent that the follower has"
    assert have.keys() >= set(bucket.deletes), "I11: a record was deleted that the follower does not have"
