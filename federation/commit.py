"""The commit builder: the second of the four places that hold the rule.

A commit is one transaction that compares the head and writes the changed records and the next head. The builder takes
no key outside the catalog that it is made for, so that no code above it can write into another zone's catalog. Beside
the records it takes notes: plain keys of this zone that tell what became of a request, and that no head covers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from federation.head import FEDERATION, CatalogId, Head, Pair, SealedHead, Signer, seal
from federation.keys import HEAD, BadKey, check_home, parse_record_key
from federation.store import Txn
from federation.tree import Tree
from fedmarket.errors import NotHome, TooLarge

MAX_OPERATIONS = 100
"""Puts, deletes, lost copies and the head, in one transaction."""
MAX_BYTES = 1 << 20
RESERVED_BYTES = 64 << 10
"""Of MAX_BYTES, for the head and the prefix of each key."""
MAX_RECORD = 256 << 10

Changes = Mapping[str, bytes | None]
"""Record key to its new bytes, or None for a delete."""


@dataclass(frozen=True, slots=True)
class Note:
    """What is written at a plain key in the same transaction as a commit."""

    value: bytes
    first: bool
    """Whether nothing may be there before: else the whole commit fails."""


Notes = Mapping[str, Note]
"""Key to what is noted there."""
NO_NOTES: Notes = {}


@dataclass(frozen=True, slots=True)
class CatalogState:
    """A catalog at one commit."""

    head: SealedHead
    tree: Tree
    revision: int
    """mod_revision of the head."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A change of a catalog, ready to be written."""

    head: SealedHead
    tree: Tree
    changes: Changes
    txn: Txn


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose catalog is written, and by whom."""

    zone: int
    catalog: CatalogId
    prefix: str
    key: Signer
    agent: str
    notes: str = ""
    """What the keys of notes begin with; empty: there are none."""


def seal_tree(
    origin: Origin, pair: Pair, prev: SealedHead | None, tree: Tree, next_ids: Mapping[str, int], time_ms: int
) -> SealedHead:
    """Sign the head of `tree` at `pair`."""
    head = Head(
        zone=origin.zone,
        catalog=origin.catalog,
        epoch=pair[0],
        seq=pair[1],
        root=tree.root,
        count=tree.count,
        next_ids=next_ids,
        prev=prev.hash if prev else b"",
        agent=origin.agent,
        time_ms=time_ms,
    )
    return seal(head, origin.key)


def build_commit(
    origin: Origin,
    seen: CatalogState,
    changes: Changes,
    next_ids: Mapping[str, int],
    time_ms: int,
    notes: Notes = NO_NOTES,
) -> Commit:
    """Build the commit of `changes` on top of `seen`.

    Raises NotHome for a key that is not of this catalog or a note elsewhere, TooLarge for more than one transaction
    takes.
    """
    for key in changes:
        _check_key(origin, key)
    for key in notes:
        if not (origin.notes and key.startswith(origin.notes)):
            raise NotHome(f"{key[:80]!r} is no place for a note of zone {origin.zone}: report this as a bug")
    check_size(changes, notes)
    puts = {key: value for key, value in changes.items() if value is not None}
    deletes = [key for key, value in changes.items() if value is None]
    tree = seen.tree.apply(puts, deletes)
    epoch, seq = seen.head.pair
    head = seal_tree(origin, (epoch, seq + 1), seen.head, tree, next_ids, time_ms)
    at_head = origin.prefix + HEAD
    txn = Txn(
        guards={at_head: seen.revision} | {key: 0 for key, note in notes.items() if note.first},
        # A record only ever changes together with the head, so none may be newer than the head that was seen.
        not_newer={origin.prefix + key: seen.revision for key in changes},
        puts={origin.prefix + key: value for key, value in puts.items()}
        | {key: note.value for key, note in notes.items()}
        | {at_head: head.encode()},
        deletes=[origin.prefix + key for key in deletes],
        read_on_failure=at_head,
    )
    return Commit(head, tree, changes, txn)


def check_size(changes: Changes, notes: Notes = NO_NOTES) -> None:
    """Raise TooLarge if `changes`, `notes` and a head do not fit one transaction."""
    for key, value in changes.items():
        if value is not None and len(value) > MAX_RECORD:
            raise TooLarge(
                f"the record {key} would be {len(value)} bytes, over the limit of {MAX_RECORD}: shorten its template"
            )
    if not fits(changes, notes):
        raise TooLarge(f"a change of {len(changes)} records does not fit one commit: split it into smaller ones")


def fits(changes: Changes, notes: Notes = NO_NOTES) -> bool:
    """Say whether `changes`, `notes` and a head fit one transaction."""
    size = sum(len(key) + len(value or b"") for key, value in changes.items())
    size += sum(len(key) + len(note.value) for key, note in notes.items())
    return len(changes) + len(notes) < MAX_OPERATIONS and size <= MAX_BYTES - RESERVED_BYTES


def _check_key(origin: Origin, key: str) -> None:
    try:
        parse_record_key(key)
        if origin.catalog == FEDERATION:
            check_home(key, origin.zone)
    except BadKey as error:
        raise NotHome(
            f"{error}: zone {origin.zone} writes only its own catalog, so ask the record's home zone for this change"
        ) from error
