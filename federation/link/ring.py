"""The last commits of this zone's catalog, kept once for all followers."""

from collections import deque
from dataclasses import dataclass

from federation.catalog import Publication
from federation.commit import CatalogState
from federation.head import Pair, SealedHead
from fedmarket.pb.fedmarket.v1.peer_pb2 import Commit, Entry

MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class RingEntry:
    """One commit as followers are told of it."""

    head: SealedHead
    message: Commit
    size: int


class Ring:
    """Consecutive commits up to the current head, as many as fit."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._entries: deque[RingEntry] = deque()
        self._bytes = 0
        self.state: CatalogState | None = None
        """The current state; None before the catalog was first read."""

    def publish(self, publication: Publication) -> None:
        """Take over a publication of the catalog; one that does not follow the last empties the ring first."""
        before, self.state = self.state, publication.state
        if before is not None and before.head.hash == publication.state.head.hash:
            return  # listed again
        if not publication.consecutive:
            self._entries.clear()
            self._bytes = 0
            return
        entry = _entry(publication)
        self._entries.append(entry)
        self._bytes += entry.size
        while self._bytes > self._max_bytes:
            self._bytes -= self._entries.popleft().size

    def holds(self, head: SealedHead) -> bool:
        """Say whether a follower that has `head` can be told everything since, commit by commit."""
        if self.state is not None and self.state.head.hash == head.hash:
            return True
        after = self._at((head.pair[0], head.pair[1] + 1))
        return after is not None and after.head.head.prev == head.hash

    def after(self, pair: Pair) -> RingEntry | None:
        """Return the commit that follows `pair`, if it is still here."""
        return self._at((pair[0], pair[1] + 1))

    def _at(self, pair: Pair) -> RingEntry | None:
        if not self._entries or self._entries[0].head.pair[0] != pair[0]:
            return None
        position = pair[1] - self._entries[0].head.pair[1]
        return self._entries[position] if 0 <= position < len(self._entries) else None


def _entry(publication: Publication) -> RingEntry:
    tree, head = publication.state.tree, publication.state.head
    message = Commit(head=head.signed, traces=publication.traces)
    for key in sorted(publication.changed):
        value = tree.get(key)
        if value is None:
            message.deletes.append(key)
        else:
            message.puts.append(Entry(key=key, value=value))
    return RingEntry(head, message, message.ByteSize())
