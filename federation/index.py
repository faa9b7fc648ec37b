"""What a catalog is looked up by: ids in order, names, and who belongs to whom."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Self, TypeVar

from federation.keys import parse_record_key, record_key
from federation.records import KINDS, PARENTS, decode
from federation.tree import Tree
from fedmarket.errors import Corrupt

_Entry = tuple[str, int | None]
K = TypeVar("K")


class Index:
    """Names and parents of the records of one catalog, kept in step with its published tree."""

    def __init__(self) -> None:
        self._ids: defaultdict[str, list[int]] = defaultdict(list)
        self._entries: dict[tuple[str, int], _Entry] = {}
        self._names: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        self._children: defaultdict[tuple[str, int], set[int]] = defaultdict(set)

    @classmethod
    def of(cls, tree: Tree) -> Self:
        """Return the index of a whole tree."""
        index = cls()
        index.update(tree, (key for key, _ in tree.items()))
        return index

    def ids(self, kind: str) -> Sequence[int]:
        """Return the ids of a kind, ascending."""
        return self._ids.get(kind, [])

    def after(self, kind: str, record_id: int, limit: int) -> Sequence[int]:
        """Return up to `limit` ids greater than `record_id`, ascending."""
        ids = self._ids.get(kind, [])
        start = bisect_left(ids, record_id + 1)
        return ids[start : start + limit]

    def named(self, kind: str, name: str) -> set[int]:
        """Return the ids of a kind that bear `name`."""
        return self._names.get((kind, name), set())

    def children(self, kind: str, parent: int) -> set[int]:
        """Return the ids of a kind that belong to `parent`, as apps do to a market."""
        return self._children.get((kind, parent), set())

    def update(self, tree: Tree, changed: Iterable[str]) -> None:
        """Bring the entries of `changed` keys in step with `tree`, leaving out what this version cannot read."""
        # In the order of the ids, so that a whole catalog is appended to the lists, not inserted.
        for kind, record_id in sorted(map(parse_record_key, changed)):
            if kind not in KINDS:
                continue
            value = tree.get(record_key(kind, record_id))
            entry = None if value is None else _entry(kind, value)
            if entry == self._entries.get((kind, record_id)):
                continue
            self._remove(kind, record_id)
            if entry is not None:
                self._add(kind, record_id, entry)

    def _add(self, kind: str, record_id: int, entry: _Entry) -> None:
        name, parent = entry
        insort(self._ids[kind], record_id)
        self._entries[kind, record_id] = entry
        self._names[kind, name].add(record_id)
        if parent is not None:
            self._children[kind, parent].add(record_id)

    def _remove(self, kind: str, record_id: int) -> None:
        entry = self._entries.pop((kind, record_id), None)
        if entry is None:
            return
        name, parent = entry
        ids = self._ids[kind]
        del ids[bisect_left(ids, record_id)]
        _discard(self._names, (kind, name), record_id)
        if parent is not None:
            _discard(self._children, (kind, parent), record_id)


def _entry(kind: str, value: bytes) -> _Entry | None:
    try:
        message = decode(KINDS[kind], value).message
    except Corrupt:
        return None
    parent = PARENTS.get(kind)
    name: str = getattr(message, "name")  # noqa: B009 -- every kind has one, which its base class cannot say
    return name, getattr(message, parent[1]) if parent else None


def _discard(sets: defaultdict[K, set[int]], key: K, record_id: int) -> None:
    sets[key].discard(record_id)
    if not sets[key]:
        del sets[key]
