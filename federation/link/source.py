"""What a home says to one follower: a state machine without I/O.

`receive` takes a message of the sink; `next` gives the next message to send, if there is one now. A slow follower falls
out of the ring and is given a DIFF; it never slows the home.
"""

from collections import deque
from collections.abc import Callable, Iterator

from federation.commit import CatalogState
from federation.head import Pair, SealedHead, read_unverified
from federation.link.ring import Ring
from federation.tree import BUCKETS
from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead
from fedmarket.pb.fedmarket.v1.peer_pb2 import (
    Beat,
    Bucket,
    Diff,
    Entry,
    FromSink,
    FromSource,
    Hello,
    Refuse,
    Want,
    Welcome,
)

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
MAX_WANTS = 16
"""Buckets that a follower may ask for ahead."""
BUCKET_PART_BYTES = 1 << 20
"""A bucket is sent in parts of about this size, so that messages stay below 2 MiB."""


def spoken(lowest: int, highest: int) -> str:
    """Return a range of protocol versions as messages name it."""
    return str(lowest) if lowest == highest else f"{lowest} to {highest}"


class Refusal(Exception):
    """The stream ends with a Refuse."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.message = FromSource(refuse=Refuse(code=code, text=text))


class Source:
    """One stream to one follower, whose zone the certificate named."""

    def __init__(self, ring: Ring, follower: int, yours: Callable[[], SignedHead | None]) -> None:
        self._ring = ring
        self._follower = follower
        self._yours = yours
        self.greeted = False
        """Whether the follower has said Hello."""
        self._sent: SealedHead | None = None
        self._diff: CatalogState | None = None
        """The state whose buckets the follower fetches."""
        self._unacknowledged: Pair | None = None
        """The head of a DIFF that the follower has not stored yet: until then it is told nothing else."""
        self._out: deque[Iterator[FromSource]] = deque()

    def drop_diff(self) -> None:
        """Let go of the state that is held for a follower that has gone quiet; its next Want is refused."""
        self._diff = None

    def receive(self, message: FromSink) -> None:
        """Take a message of the sink. Raises Refusal, which ends the stream.

        One that this version does not know is left out, as the sink does it.
        """
        match message.WhichOneof("message"):
            case "hello":
                self._hello(message.hello)
            case "want" if self.greeted:
                self._want(message.want)
            case "ack" if self.greeted:
                self._ack((message.ack.epoch, message.ack.seq))
            case None if self.greeted:
                pass
            case _:
                raise Refusal("protocol", "a stream begins with a Hello")

    def next(self) -> FromSource | None:
        """Return the next message to send, or None if there is nothing to say now."""
        while self._out:
            message = next(self._out[0], None)
            if message is not None:
                return message
            self._out.popleft()
        if self._unacknowledged is not None or self._sent is None:
            return None
        entry = self._ring.after(self._sent.pair)
        if entry is not None and entry.head.head.prev == self._sent.hash:
            self._sent = entry.head
            return FromSource(commit=entry.message)
        state = self._state()
        return None if state.head.hash == self._sent.hash else self._start_diff(state)

    def beat(self) -> FromSource | None:
        """Return a Beat: the last head sent on this stream."""
        return FromSource(beat=Beat(head=self._sent.signed)) if self._sent else None

    def _hello(self, hello: Hello) -> None:
        if hello.zone != self._follower:
            raise Refusal("zone", f"the certificate is of zone {self._follower}, the Hello of zone {hello.zone}")
        protocol = min(PROTOCOL_MAX, hello.protocol_max)
        if protocol < max(PROTOCOL_MIN, hello.protocol_min):
            raise Refusal(
                "protocol",
                f"the home speaks protocol {spoken(PROTOCOL_MIN, PROTOCOL_MAX)}, the follower "
                f"{spoken(hello.protocol_min, hello.protocol_max)}: upgrade the older of the two agents",
            )
        state = self._state()
        self.greeted, self._diff, self._unacknowledged = True, None, None
        welcome = FromSource(welcome=Welcome(protocol=protocol, head=state.head.signed, yours=self._yours()))
        have = self._known(hello.have) if hello.HasField("have") and not hello.diff else None
        if have is None:
            self._out = deque([iter([welcome, self._start_diff(state)])])
            return
        self._sent = have
        beat = [FromSource(beat=Beat(head=have.signed))] if have.hash == state.head.hash else []
        self._out = deque([iter([welcome, *beat])])

    def _known(self, signed: SignedHead) -> SealedHead | None:
        """Return the follower's head if it is one of ours from which it can be told commit by commit.

        Its signature need not be checked: only a head whose hash we know is taken.
        """
        have = read_unverified(signed)
        return have if have is not None and self._ring.holds(have) else None

    def _start_diff(self, state: CatalogState) -> FromSource:
        self._diff, self._sent, self._unacknowledged = state, state.head, state.head.pair
        return FromSource(diff=Diff(head=state.head.signed, buckets=state.tree.digests))

    def _want(self, want: Want) -> None:
        if self._diff is None:
            raise Refusal("stale", "the state that these buckets belong to is no longer held: dial again")
        if want.bucket >= BUCKETS:
            raise Refusal("protocol", f"there is no bucket {want.bucket}")
        if len(self._out) >= MAX_WANTS:
            raise Refusal("protocol", f"more than {MAX_WANTS} buckets were asked for before the first was taken")
        self._out.append(self._bucket(self._diff, want))

    def _bucket(self, state: CatalogState, want: Want) -> Iterator[FromSource]:
        bucket = state.tree.bucket(want.bucket)
        have = {entry.key: entry.leaf for entry in want.have}
        part = Bucket(index=want.bucket, deletes=[key for key in have if key not in bucket])
        size = 0
        for key, leaf in bucket.items():
            if have.get(key) == leaf.digest:
                continue
            if size + len(leaf.value) > BUCKET_PART_BYTES:
                yield FromSource(bucket=part)
                part, size = Bucket(index=want.bucket), 0
            part.puts.append(Entry(key=key, value=leaf.value))
            size += len(key) + len(leaf.value)
        part.last = True
        yield FromSource(bucket=part)

    def _ack(self, pair: Pair) -> None:
        if pair == self._unacknowledged:
            self._diff = self._unacknowledged = None

    def _state(self) -> CatalogState:
        if self._ring.state is None:
            raise Refusal("busy", "this zone's catalog is not open yet: dial again")
        return self._ring.state
