"""What lies at the prefix of a catalog that this zone writes, believed or not, and writing another one over it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from federation.ahead import aside
from federation.commit import MAX_BYTES, MAX_OPERATIONS, RESERVED_BYTES, Changes, Origin
from federation.head import SealedHead
from federation.keys import HEAD, BadKey, parse_record_key
from federation.store import KeyValue, Store, Txn
from federation.tree import Tree
from fedmarket.errors import Refused


@dataclass(frozen=True, slots=True)
class Stored:
    """A catalog's keys at one revision."""

    head: KeyValue | None
    tree: Tree
    newer: tuple[str, ...]
    """The records that were written after the head, which no commit does."""

    @property
    def revision(self) -> int:
        """mod_revision of the head; 0: there is none."""
        return self.head.mod_revision if self.head else 0


async def read_stored(store: Store, prefix: str) -> Stored:
    """List a catalog. What is not named as a record is left out, as everywhere."""
    snapshot = await store.snapshot(prefix)
    items = {item.key.removeprefix(prefix): item for item in snapshot.items}
    head = items.pop(HEAD, None)
    records = {key: item for key, item in items.items() if _is_record(key)}
    newer = tuple(sorted(key for key, item in records.items() if head and item.mod_revision > head.mod_revision))
    tree = await aside(partial(Tree.of, {key: item.value for key, item in records.items()}), len(records))
    return Stored(head, tree, newer)


async def rewrite(
    store: Store, origin: Origin, stored: Stored, target: Tree, head: SealedHead, guards: Mapping[str, int]
) -> Changes:
    """Make the stored records those of `target`, and put its head with the last of them; return what was changed.

    Each transaction also writes the head that was stored, so that nobody else commits onto the mix. Whoever is
    interrupted can do it again. Raises Refused if somebody else wrote meanwhile or `guards`, further keys and their
    revisions, do not hold.
    """
    changes = {key: target.get(key) for key in sorted(target.changed_keys(stored.tree))}
    at_head = origin.prefix + HEAD
    seen = stored.revision
    *mixing, last = list(_batches(changes)) or [{}]
    for batch in mixing:
        fence = {at_head: stored.head.value} if stored.head else {}
        revision = await _write(store, origin, batch, fence, {at_head: seen, **guards})
        seen = revision if stored.head else 0
    await _write(store, origin, last, {at_head: head.encode()}, {at_head: seen, **guards})
    return changes


async def _write(
    store: Store, origin: Origin, changes: Changes, head: Mapping[str, bytes], guards: Mapping[str, int]
) -> int:
    puts = {origin.prefix + key: value for key, value in changes.items() if value is not None}
    deletes = [origin.prefix + key for key, value in changes.items() if value is None]
    result = await store.txn(Txn(guards, puts={**puts, **head}, deletes=deletes))
    if not result.succeeded:
        raise Refused(f"another agent of zone {origin.zone} wrote to {origin.prefix} meanwhile: ask again")
    return result.revision


def _batches(changes: Changes) -> Iterator[Changes]:
    """Split changes into transactions that have room for a head."""
    batch: dict[str, bytes | None] = {}
    size = 0
    for key, value in changes.items():
        more = len(key) + len(value or b"")
        if batch and (len(batch) == MAX_OPERATIONS - 1 or size + more > MAX_BYTES - RESERVED_BYTES):
            yield batch
            batch, size = {}, 0
        batch[key] = value
        size += more
    if batch:
        yield batch


def _is_record(key: str) -> bool:
    try:
        parse_record_key(key)
    except BadKey:
        return False
    return True
