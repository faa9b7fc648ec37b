"""A change in the making: the catalog at exactly one head, and over it what the same commit has changed so far."""

from collections.abc import Mapping, Set
from typing import TypeVar

from google.protobuf.message import Message

from federation.commit import Changes, Note, Notes, check_size, fits
from federation.head import FEDERATION, CatalogId
from federation.index import Index
from federation.keys import FIRST_FEDERATED, FIRST_PRIVATE, IDS_PER_ZONE, ZONE_KIND, record_key
from federation.records import KINDS, PARENTS, Record, check_changeable, decode, encode, kind_of, new_record
from federation.tree import Tree
from fedmarket.errors import AlreadyExists, TooLarge

M = TypeVar("M", bound=Message)

ZONE_LOCAL_KINDS = frozenset({"image", "datastore", "template"})
"""Kinds of the private catalog only: they count plainly from 0."""
LAST_LOCAL = 2**31 - 1


class Repeated(AlreadyExists):
    """What a change was to note first was noted before: the same request has come twice."""


class IdRange:
    """Which ids a catalog gives out: `zone * 1,000,000 + n`, or plain n for zone-local kinds."""

    def __init__(self, zone: int, catalog: CatalogId) -> None:
        self._base = zone * IDS_PER_ZONE
        self._federated = catalog == FEDERATION
        self._first = FIRST_FEDERATED if self._federated else FIRST_PRIVATE
        self._last = FIRST_PRIVATE - 1 if self._federated else IDS_PER_ZONE - 1

    def firsts(self) -> dict[str, int]:
        """Return the first n of each kind that the catalog gives out."""
        local = {} if self._federated else dict.fromkeys(ZONE_LOCAL_KINDS, 0)
        return dict.fromkeys(KINDS.keys() - ZONE_LOCAL_KINDS - {ZONE_KIND}, self._first) | local

    def take(self, kind: str, next_ids: dict[str, int]) -> int:
        """Return the next id of a kind and count it. Raises TooLarge when the range is used up."""
        local = kind in ZONE_LOCAL_KINDS
        first, last, base = (0, LAST_LOCAL, 0) if local else (self._first, self._last, self._base)
        n = next_ids.get(kind, first)
        if n > last:
            raise TooLarge(f"this zone has used up its {last - first + 1} ids for {kind} records: use another zone")
        next_ids[kind] = n + 1
        return base + n


class Draft:
    """What a change sees and does. One that raises leaves no trace in the commit that it would have shared."""

    def __init__(
        self,
        tree: Tree,
        index: Index,
        next_ids: Mapping[str, int],
        ids: IdRange,
        noted: Set[str] = frozenset(),
    ) -> None:
        """Begin with nothing changed. `noted` are keys of notes that are known to be there."""
        self._tree = tree
        self._index = index
        self._ids = ids
        self._noted = noted
        self._kept: dict[str, bytes | None] = {}
        self._kept_next = dict(next_ids)
        self._kept_notes: dict[str, Note] = {}
        self._new: dict[str, bytes | None] = {}
        self._new_next = dict(next_ids)
        self._new_notes: dict[str, Note] = {}

    @property
    def changes(self) -> Changes:
        """Everything that was kept: record key to bytes, or None for a delete."""
        return self._kept

    @property
    def notes(self) -> Notes:
        """What was kept of notes."""
        return self._kept_notes

    @property
    def next_ids(self) -> Mapping[str, int]:
        """The ids to be given next, after what was kept."""
        return self._kept_next

    def keep(self) -> bool:
        """Take over what was done since the last keep; False, and nothing taken, if a commit could not hold it too.

        Raises TooLarge if not even a commit of its own could.
        """
        merged, notes = self._kept | self._new, self._kept_notes | self._new_notes
        if not fits(merged, notes):
            check_size(self._new, self._new_notes)
            return False
        check_size(merged, notes)
        self._kept, self._kept_next, self._kept_notes = merged, dict(self._new_next), notes
        self._new, self._new_notes = {}, {}
        return True

    def drop(self) -> None:
        """Forget what was done since the last keep."""
        self._new, self._new_next, self._new_notes = {}, dict(self._kept_next), {}

    def get(self, message: type[M], record_id: int) -> Record[M] | None:
        """Return a record, or None."""
        key = record_key(kind_of(message), record_id)
        overlay = self._overlay()
        value = overlay[key] if key in overlay else self._tree.get(key)
        return None if value is None else decode(message, value)

    def named(self, message: type[M], name: str) -> list[tuple[int, Record[M]]]:
        """Return the records of this catalog that bear `name`."""
        candidates = set(self._index.named(kind_of(message), name)) | self._overlaid(message)
        return [(i, r) for i, r in self._existing(message, candidates) if getattr(r.message, "name", None) == name]

    def children(self, message: type[M], parent: int) -> list[tuple[int, Record[M]]]:
        """Return the records that belong to `parent`: the apps of a market, the images of a datastore."""
        field = PARENTS[kind_of(message)][1]
        candidates = set(self._index.children(kind_of(message), parent)) | self._overlaid(message)
        return [(i, r) for i, r in self._existing(message, candidates) if getattr(r.message, field) == parent]

    def create(self, message: Message) -> int:
        """Add a new record under the next id of its kind, and return that id."""
        record_id = self._ids.take(kind_of(type(message)), self._new_next)
        self.add(record_id, message)
        return record_id

    def add(self, record_id: int, message: Message) -> None:
        """Add a new record under an id that its nature gives, as a zone's."""
        self.put(record_id, new_record(message))

    def put(self, record_id: int, record: Record[M]) -> None:
        """Write a record that was changed."""
        self._new[record_key(kind_of(type(record.message)), record_id)] = encode(record)

    def delete(self, message: type[Message], record_id: int) -> None:
        """Remove a record. Raises Refused if only a newer version may change it."""
        record = self.get(message, record_id)
        if record is not None:
            check_changeable(record)
        self._new[record_key(kind_of(message), record_id)] = None

    def note(self, key: str, value: bytes, *, first: bool) -> None:
        """Write a plain key together with the commit; with `first`, only if nothing is there. Raises Repeated."""
        if first and (key in self._noted or key in self._kept_notes):
            raise Repeated("this request was made before: what became of it, its request id tells")
        self._new_notes[key] = Note(value, first)

    def _overlay(self) -> dict[str, bytes | None]:
        return self._kept | self._new if self._new else self._kept

    def _overlaid(self, message: type[Message]) -> set[int]:
        start = kind_of(message) + "/"
        return {int(key.removeprefix(start)) for key in self._overlay() if key.startswith(start)}

    def _existing(self, message: type[M], ids: set[int]) -> list[tuple[int, Record[M]]]:
        found = ((record_id, self.get(message, record_id)) for record_id in sorted(ids))
        return [(record_id, record) for record_id, record in found if record is not None]
