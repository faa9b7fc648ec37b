"""What a follower accepts of one peer: a state machine without I/O. The third of the four places that hold the rule.

Only records under a head signed by the peer's pinned key are taken, and only keys of that peer's catalog.

`receive` takes a message and says what to do (`Action`s, in order). A `Write` or `Fence` is done before the next
message is given in, and reported with `wrote` or `fenced`. In TAIL, verified commits pile up until `flush` folds them
into one Write.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from federation.catalog import follows
from federation.commit import MAX_BYTES, MAX_OPERATIONS, MAX_RECORD, fits
from federation.head import FEDERATION, SealedHead, Verifier, unseal
from federation.keys import BadKey, check_home
from federation.link.source import PROTOCOL_MAX, PROTOCOL_MIN, spoken
from federation.tree import BUCKETS, Bucket, Tree, apply_to_bucket, bucket_digest, bucket_index, root_digest
from fedmarket import telemetry
from fedmarket.errors import Corrupt
from fedmarket.pb.fedmarket.v1 import peer_pb2
from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead
from fedmarket.pb.fedmarket.v1.peer_pb2 import Ack, FromSink, FromSource, Have, Hello, Want, Welcome

MAX_BUCKET_BYTES = 256 << 20
"""Of one bucket, a 256th of a catalog: what is held in memory before the digest tells whether it is true."""


class State(Enum):
    """Where a link is. FORKED and REFUSED stay until something changes or a person decides."""

    DOWN = "down"
    TAIL = "tail"
    DIFF = "diff"
    FORKED = "forked"
    REFUSED = "refused"
    SHARED = "shared"
    """Read directly in one etcd: no stream."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to the source."""

    message: FromSink


@dataclass(frozen=True, slots=True)
class Write:
    """Store this in one transaction that compares the replica's head."""

    puts: Mapping[str, bytes] = field(default_factory=dict)
    deletes: tuple[str, ...] = ()
    lost: Mapping[str, bytes] = field(default_factory=dict)
    """Record key to bytes, of records that a DIFF removes: kept below lost/<epoch>/."""
    epoch: int = 0
    """The epoch that `lost` records were of."""
    head: bytes | None = None
    """What to store as the replica's head; None leaves it."""
    tree: Tree | None = field(default=None, compare=False)
    """All that is stored then, where this is the end of a DIFF."""
    traces: tuple[str, ...] = field(default=(), compare=False)
    """W3C traceparents that came with the commits in it."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Store the replica's head again, then report the records that are stored: another agent's DIFF is fenced off."""

    head: bytes
    """The same bytes as before; b"", a mark, where none was stored."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Have it judged whether our own store knows this head of ours, which the peer holds."""

    yours: SignedHead


@dataclass(frozen=True, slots=True)
class Close:
    """End the stream; the link is DOWN, or in the sticky fault `state`."""

    reason: str
    state: State = State.DOWN
    passing: bool = False
    """Whether a fault that is sticky may go by itself: the peer may speak another protocol tomorrow."""


Action = Send | Write | Fence | Judge | Close


class _Fault(Exception):
    def __init__(self, reason: str, state: State, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.close = Close(reason, state, passing)


class _NeedDiff(Exception):
    """What came does not follow from what is held."""


class Sink:
    """One stream from one peer. Made anew, from what is stored, for every stream."""

    def __init__(self, zone: int, peer: int, key: Verifier, head: SealedHead | None, tree: Tree) -> None:
        self._zone = zone
        self._peer = peer
        self._key = key
        self._head = head
        self._tree = tree
        self._stored = (head, tree)
        self._pending: tuple[SealedHead, Tree] | None = None
        self._verified: deque[_Verified] = deque()
        self._diff: _Diff | None = None
        self._greeted = False
        self.state = State.DOWN
        self.there: SealedHead | None = None
        """The newest head that the peer showed on this stream."""
        self.current = False
        """Whether all that the peer has said is stored here."""

    @property
    def have(self) -> SealedHead | None:
        """The head whose records are stored here."""
        return self._stored[0]

    @property
    def full(self) -> bool:
        """Whether enough is verified to fill a Write."""
        return len(self._verified) >= MAX_OPERATIONS

    def hello(self) -> FromSink:
        """Return the first message of a stream."""
        matches = self._head is not None and self._head.head.root == self._tree.root
        return self._hello(diff=not matches)

    def receive(self, message: FromSource) -> list[Action]:
        """Take a message of the source."""
        return self._guarded(lambda: self._receive(message))

    def _guarded(self, step: Callable[[], list[Action]]) -> list[Action]:
        """Take a step; what does not hold ends the stream, or begins a DIFF."""
        try:
            return step()
        except _Fault as fault:
            self.state, self._verified = fault.close.state, deque()
            return [fault.close]
        except _NeedDiff:
            self._greeted, self._verified = False, deque()
            self._head, self._tree = self._stored
            self.current, self.state = False, State.DIFF
            return [Send(self._hello(diff=True))]

    def flush(self) -> Write | None:
        """Fold what TAIL has verified into one Write, as much as fits; None if there is nothing."""
        if not self._verified:
            return None
        changes: dict[str, bytes | None] = {}
        traces: list[str] = []
        while self._verified:
            merged = changes | self._verified[0].changes
            if changes and not fits(merged):
                break
            changes, last = merged, self._verified.popleft()
            traces += last.traces
            self._pending = (last.head, last.tree)
        return Write(
            puts={key: value for key, value in changes.items() if value is not None},
            deletes=tuple(key for key, value in changes.items() if value is None),
            head=last.head.encode(),
            traces=tuple(traces),
        )

    def wrote(self) -> list[Action]:
        """Go on after a Write was stored."""
        diff = self._diff
        if diff is not None:
            return self._guarded(lambda: self._advance(diff))
        if self._pending is None:
            return []
        self._stored, self._pending = self._pending, None
        self.current = not self._verified
        epoch, seq = self._stored[0].pair
        return [Send(FromSink(ack=Ack(epoch=epoch, seq=seq)))]

    def fenced(self, tree: Tree) -> list[Action]:
        """Go on after a Fence, with the records that are stored as of it."""
        diff = self._diff
        if diff is None:
            return []
        self._tree = tree
        diff.todo = deque(i for i in range(BUCKETS) if diff.digests[i] != tree.digests[i])
        return self._guarded(lambda: self._advance(diff))

    # -- messages

    def _receive(self, message: FromSource) -> list[Action]:
        kind = message.WhichOneof("message")
        if kind == "refuse":
            code = message.refuse.code
            state = State.REFUSED if code in {"protocol", "zone"} else State.DOWN
            raise _Fault(f"the peer refused ({code}): {message.refuse.text}", state, passing=code == "protocol")
        if kind == "welcome":
            return self._welcome(message.welcome)
        if not self._greeted:
            return []  # sent before the peer saw that we asked for a DIFF
        match kind:
            case None:  # of a newer version: nothing that this protocol needs, but not known to be stored here either
                self.current = False
                return []
            case "commit":
                self._commit(message.commit)
                return []
            case "beat":
                self._beat(message.beat.head)
                return []
            case "diff":
                return self._start_diff(message.diff)
            case "bucket" if self._diff is not None:
                return self._bucket(self._diff, message.bucket)
            case _:
                raise _Fault("the peer sent a message that has no place here", State.REFUSED)

    def _welcome(self, welcome: Welcome) -> list[Action]:
        if not PROTOCOL_MIN <= welcome.protocol <= PROTOCOL_MAX:
            reason = (
                f"the peer answers in protocol {welcome.protocol}, and was offered "
                f"{spoken(PROTOCOL_MIN, PROTOCOL_MAX)}: upgrade the older of the two agents"
            )
            raise _Fault(reason, State.REFUSED, passing=True)
        self._greeted, self.current, self.there = True, False, self._verify(welcome.head)
        self._newer_or_equal(self.there)
        return [Judge(welcome.yours)] if welcome.HasField("yours") else []

    def _commit(self, commit: peer_pb2.Commit) -> None:
        if self._diff is not None:
            raise _Fault("the peer sent a commit inside a DIFF", State.REFUSED)
        head = self._verify(commit.head)
        self._newer_or_equal(head)
        if self._head is None or not follows(self._head, head):
            raise _NeedDiff
        puts = {entry.key: entry.value for entry in commit.puts}
        self._check_records(puts, commit.deletes)
        changes = dict.fromkeys(commit.deletes) | puts
        if not fits(changes):
            raise _Fault("the peer sent a commit over the limits of the protocol", State.REFUSED)
        tree = self._tree.apply(puts, commit.deletes)
        if (tree.root, tree.count) != (head.head.root, head.head.count):
            raise _NeedDiff
        self._head, self._tree, self.there = head, tree, head
        self.state, self.current = State.TAIL, False
        self._verified.append(_Verified(head, tree, changes, telemetry.sampled(commit.traces)))

    def _beat(self, signed: SignedHead) -> None:
        if self._diff is not None:
            return
        head = self._verify(signed)
        self._newer_or_equal(head)
        if self._head is None or head.hash != self._head.hash:
            raise _NeedDiff
        self.state, self.there = State.TAIL, head
        self.current = not self._verified

    # -- DIFF

    def _start_diff(self, message: peer_pb2.Diff) -> list[Action]:
        head = self._verify(message.head)
        self._newer_or_equal(head)
        if len(message.buckets) != BUCKETS or root_digest(message.buckets) != head.head.root:
            raise _Fault("the peer's DIFF does not match its head", State.REFUSED)
        self._verified.clear()  # the DIFF brings them too, and starts from what is stored
        self._head, self._tree = self._stored
        self.state, self.current, self.there = State.DIFF, False, head
        self._diff = _Diff(head, list(message.buckets))
        return [Fence(self._stored_head())]

    def _bucket(self, diff: "_Diff", part: peer_pb2.Bucket) -> list[Action]:
        if part.index != diff.asked:
            raise _Fault(f"the peer sent bucket {part.index} unasked", State.REFUSED)
        before = self._tree.bucket(part.index)
        puts = {entry.key: entry.value for entry in part.puts}
        self._check_records(puts, ())  # what is deleted is ours, whatever its key
        if any(bucket_index(key) != part.index for key in puts):
            raise _Fault(f"the peer sent records of other buckets in bucket {part.index}", State.REFUSED)
        diff.puts |= puts
        diff.deletes.update(key for key in part.deletes if key in before)
        if len(diff.puts) > diff.head.head.count:
            raise _Fault("the peer sent more records than its head counts", State.REFUSED)
        diff.bytes += part.ByteSize()
        if diff.bytes > MAX_BUCKET_BYTES:
            raise _Fault(f"the peer sent more than {MAX_BUCKET_BYTES} bytes for one bucket", State.REFUSED)
        if not part.last:
            return []
        after = apply_to_bucket(before, diff.puts, diff.deletes)
        if bucket_digest(after) != diff.digests[part.index]:
            raise _Fault(f"bucket {part.index} does not match the peer's head", State.DOWN)
        self._tree = self._tree.replace_buckets({part.index: after})
        epoch = (self.have or diff.head).head.epoch
        diff.writes.extend(split_writes(diff.puts, diff.deletes, before, epoch))
        diff.puts, diff.deletes, diff.bytes, diff.asked = {}, set(), 0, None
        return self._advance(diff)

    def _advance(self, diff: "_Diff") -> list[Action]:
        """Take the next step of a DIFF: a Write that is due, the next bucket, or its end."""
        if diff.writes:
            # With the head that is stored, so that no other agent can write, nor take for whole, what is being mixed.
            return [replace(diff.writes.popleft(), head=self._stored_head())]
        if diff.todo:
            diff.asked = diff.todo.popleft()
            have = [Have(key=key, leaf=leaf.digest) for key, leaf in self._tree.bucket(diff.asked).items()]
            return [Send(FromSink(want=Want(bucket=diff.asked, have=have)))]
        if (self._tree.root, self._tree.count) != (diff.head.head.root, diff.head.head.count):
            raise _Fault("the peer's records do not match its head", State.REFUSED)
        self._diff, self._head, self._pending = None, diff.head, (diff.head, self._tree)
        self.state = State.TAIL
        return [Write(head=diff.head.encode(), tree=self._tree)]

    def _stored_head(self) -> bytes:
        """Return the bytes of the head that is stored; of none, the mark that a DIFF began."""
        return self.have.encode() if self.have else b""

    # -- checks

    def _verify(self, signed: SignedHead) -> SealedHead:
        try:
            head = unseal(signed, self._key)
        except Corrupt as error:
            raise _Fault(f"zone {self._peer}: {error.message}", State.REFUSED) from error
        if head.head.zone != self._peer or head.head.catalog != FEDERATION:
            raise _Fault(f"the head is of zone {head.head.zone}, not of zone {self._peer}", State.REFUSED)
        return head

    def _newer_or_equal(self, head: SealedHead) -> None:
        """Require that `head` is not older than ours, nor another head with our pair."""
        if self._head is None or head.pair > self._head.pair:
            return
        if head.pair < self._head.pair:
            raise _Fault(
                f"the peer showed head {head.pair}, older than {self._head.pair} that is stored here", State.DOWN
            )
        if head.hash != self._head.hash:
            raise _Fault(f"two different heads of zone {self._peer} are signed as {head.pair}", State.FORKED)

    def _check_records(self, puts: Mapping[str, bytes], deletes: Iterable[str]) -> None:
        try:
            for key in [*puts, *deletes]:
                check_home(key, self._peer)
        except BadKey as error:
            raise _Fault(f"zone {self._peer} sent a record that is not its own: {error}", State.REFUSED) from error
        if any(len(value) > MAX_RECORD for value in puts.values()):
            raise _Fault(f"zone {self._peer} sent a record over {MAX_RECORD} bytes", State.REFUSED)

    def _hello(self, *, diff: bool) -> FromSink:
        have = self._head.signed if self._head else None
        hello = Hello(zone=self._zone, protocol_min=PROTOCOL_MIN, protocol_max=PROTOCOL_MAX, have=have, diff=diff)
        return FromSink(hello=hello)


@dataclass(frozen=True, slots=True)
class _Verified:
    """A commit of the peer that holds, and is not stored yet."""

    head: SealedHead
    tree: Tree
    changes: dict[str, bytes | None]
    traces: tuple[str, ...]


@dataclass(slots=True)
class _Diff:
    """The DIFF that is being written."""

    head: SealedHead
    digests: list[bytes]
    todo: deque[int] = field(default_factory=deque)
    asked: int | None = None
    puts: dict[str, bytes] = field(default_factory=dict)
    deletes: set[str] = field(default_factory=set)
    bytes: int = 0
    """What came of the bucket that was asked for."""
    writes: deque[Write] = field(default_factory=deque)


def split_writes(puts: Mapping[str, bytes], deletes: Iterable[str], before: Bucket, epoch: int) -> Iterable[Write]:
    """Split the changes of one bucket into transactions, puts first; a record is kept as lost as it is deleted."""
    batch: dict[str, bytes] = {}
    for key, value in puts.items():
        if batch and (len(batch) >= MAX_OPERATIONS - 1 or _size(batch) + len(value) > MAX_BYTES):
            yield Write(puts=batch)
            batch = {}
        batch[key] = value
    if batch:
        yield Write(puts=batch)
    lost: dict[str, bytes] = {}
    for key in deletes:
        if key not in before or key in puts:
            continue
        if lost and (2 * len(lost) >= MAX_OPERATIONS - 2 or _size(lost) + len(before[key].value) > MAX_BYTES):
            yield Write(deletes=tuple(lost), lost=lost, epoch=epoch)
            lost = {}
        lost[key] = before[key].value
    if lost:
        yield Write(deletes=tuple(lost), lost=lost, epoch=epoch)


def _size(records: Mapping[str, bytes]) -> int:
    return sum(len(key) + len(value) for key, value in records.items())
