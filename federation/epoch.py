"""New epochs: how a zone goes on whose store was put back, without using a head or an id a second time."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from federation.commit import CatalogState, Commit, Origin, seal_tree
from federation.draft import IdRange
from federation.head import Pair, SealedHead
from federation.keys import HEAD
from federation.store import Txn
from federation.tree import Tree

RESTORED_ID_GAP = 10_000
"""Ids go on this far above the greatest that is known, so that none that may have been given out is given out again."""


class Known(Protocol):
    """How far this zone is known to have come: by a head, or by the high-water mark."""

    @property
    def pair(self) -> Pair:
        """(epoch, seq)."""
        ...

    @property
    def next_ids(self) -> Mapping[str, int]:
        """The ids to be given next, per kind."""
        ...


def seal_epoch(
    origin: Origin, stored: SealedHead | None, tree: Tree, known: Sequence[Known], time_ms: int
) -> SealedHead:
    """Sign the first head of the epoch after every one that is known, over the records that are stored."""
    reached: list[Known] = [*known, *([stored.head] if stored else [])]
    epoch = max((one.pair[0] for one in reached), default=0) + 1
    next_ids = IdRange(origin.zone, origin.catalog).firsts()  # of a kind that nobody knows, some may be lost
    for one in reached:
        next_ids |= {kind: max(n, next_ids.get(kind, 0)) for kind, n in one.next_ids.items()}
    next_ids = {kind: n + RESTORED_ID_GAP for kind, n in next_ids.items()}
    return seal_tree(origin, (epoch, 1), stored, tree, next_ids, time_ms)


def build_epoch(origin: Origin, stored: CatalogState, known: Sequence[Known], time_ms: int) -> Commit:
    """Build the commit that begins an epoch over the records of `stored`."""
    head = seal_epoch(origin, stored.head, stored.tree, known, time_ms)
    at_head = origin.prefix + HEAD
    txn = Txn({at_head: stored.revision}, puts={at_head: head.encode()}, read_on_failure=at_head)
    return Commit(head, stored.tree, {}, txn)
