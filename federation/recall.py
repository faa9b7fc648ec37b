"""A whole catalog as messages: how a zone gets back what a peer, or a file, holds of its own catalog.

The messages are Commits that only put: the first has the head, each is small enough for a stream between zones. Nothing
of them is believed before all are here and are what the head says, under the zone's own signature.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO

from google.protobuf import proto
from google.protobuf.message import DecodeError

from federation.commit import MAX_RECORD
from federation.head import FEDERATION, SealedHead, Verifier, unseal
from federation.keys import BadKey, check_home
from federation.link.source import BUCKET_PART_BYTES
from federation.tree import Tree
from fedmarket.errors import Corrupt
from fedmarket.pb.fedmarket.v1.peer_pb2 import Commit, Entry


@dataclass(frozen=True, slots=True)
class Copy:
    """A catalog at one commit, verified, whoever held it."""

    head: SealedHead
    tree: Tree


def messages_of(head: SealedHead, tree: Tree) -> Iterator[Commit]:
    """Yield a catalog as messages, of about 1 MiB of records each at most."""
    part, size = Commit(head=head.signed), 0
    for key, value in tree.items():
        if size and size + len(value) > BUCKET_PART_BYTES:
            yield part
            part, size = Commit(), 0
        part.puts.append(Entry(key=key, value=value))
        size += len(key) + len(value)
    yield part


class Recall:
    """The federated catalog of one zone, as it comes in."""

    def __init__(self, zone: int, key: Verifier) -> None:
        self._zone = zone
        self._key = key
        self._head: SealedHead | None = None
        self._records: dict[str, bytes] = {}

    def take(self, part: Commit) -> None:
        """Take the next message. Raises Corrupt if it cannot belong to a catalog that the zone has signed."""
        if self._head is None:
            self._head = self._verified(part)
        for entry in part.puts:
            try:
                check_home(entry.key, self._zone)
            except BadKey as error:
                raise self._corrupt(f"{error}") from error
            if len(entry.value) > MAX_RECORD:
                raise self._corrupt(f"{entry.key} has {len(entry.value)} bytes")
            self._records[entry.key] = entry.value
        if len(self._records) > self._head.head.count:
            raise self._corrupt(f"it has more than the {self._head.head.count} records that its head counts")

    def finish(self) -> Copy:
        """Return the catalog, now that all has come. Hashes every record. Raises Corrupt if it is not whole."""
        if self._head is None:
            raise self._corrupt("there is nothing in it")
        tree = Tree.of(self._records)
        if not self._head.describes(tree):
            raise self._corrupt(
                f"its {tree.count} records are not the {self._head.head.count} that its head was signed over"
            )
        return Copy(self._head, tree)

    def _verified(self, part: Commit) -> SealedHead:
        try:
            head = unseal(part.head, self._key)
        except Corrupt as error:
            raise self._corrupt(error.message) from error
        if head.head.zone != self._zone or head.head.catalog != FEDERATION:
            raise self._corrupt(f"its head is of another catalog, of zone {head.head.zone}")
        return head

    def _corrupt(self, why: str) -> Corrupt:
        return Corrupt(f"this copy of the catalog of zone {self._zone} cannot be used ({why}): take another one")


def gather(messages: Iterable[Commit], zone: int, key: Verifier) -> Copy:
    """Return the catalog that the messages are. Raises Corrupt."""
    recall = Recall(zone, key)
    for message in messages:
        recall.take(message)
    return recall.finish()


def to_bytes(messages: Iterable[Commit]) -> Iterator[bytes]:
    """Yield what a file of messages holds: each behind its length as a varint."""
    for message in messages:
        buffer = BytesIO()
        proto.serialize_length_prefixed(message, buffer)
        yield buffer.getvalue()


def from_bytes(content: bytes) -> Iterator[Commit]:
    """Yield the messages of a file. Raises Corrupt if it is not made of any."""
    buffer = BytesIO(content)
    while buffer.tell() < len(content):
        try:
            yield proto.parse_length_prefixed(Commit, buffer)
        except (DecodeError, ValueError) as error:
            raise Corrupt(
                "the file is not what `fedmarket zone export` wrote, or not all of it: take another copy"
            ) from error
