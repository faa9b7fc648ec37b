"""Everything this agent can see: its own catalogs and the replicas of its peers, looked up as one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from google.protobuf.message import Message

from federation.catalog import Catalog
from federation.draft import ZONE_LOCAL_KINDS
from federation.keys import FIRST_PRIVATE, IDS_PER_ZONE, ZONE_KIND, home_of, record_key
from federation.records import PARENTS, Record, decode, kind_of
from fedmarket.errors import BadInput, NotFound
from fedmarket.pb.fedmarket.v1.record_pb2 import ZoneRecord

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Found(Generic[M]):
    """A record and where it is."""

    id: int
    home: int
    private: bool
    """Whether it is in the private catalog, which no peer sees."""
    value: bytes
    """As it is stored."""
    kind: type[M]

    @cached_property
    def record(self) -> Record[M]:
        """What is stored, read when it is looked at first. Raises Corrupt."""
        return decode(self.kind, self.value)

    @property
    def message(self) -> M:
        """What the record says."""
        return self.record.message


class View:
    """The catalogs of all zones, as this one holds them. Reads never leave memory."""

    def __init__(self, own: Catalog, private: Catalog, replicas: Mapping[int, Catalog]) -> None:
        self.own = own
        self.private = private
        self.replicas = replicas
        self._names: dict[int, tuple[bytes, str]] = {}
        """Names of zones, and the records that they are read from: every record that is shown asks for one."""

    @property
    def zone(self) -> int:
        """The zone that this view is of."""
        return self.own.home

    def federated(self) -> Iterator[Catalog]:
        """Yield the federated catalog of every zone, ascending by zone."""
        catalogs = {self.own.home: self.own, **self.replicas}
        return (catalogs[home] for home in sorted(catalogs))

    def get(self, message: type[M], record_id: int) -> Found[M] | None:
        """Return a record by its id, or None."""
        kind = kind_of(message)
        catalog = self.catalog(kind, record_id)
        value = catalog.tree.get(record_key(kind, record_id)) if catalog else None
        if catalog is None or value is None:
            return None
        return Found(record_id, catalog.home, catalog is self.private, value, message)

    def named(self, message: type[M], name: str) -> list[Found[M]]:
        """Return the records of all zones that bear `name`, ascending by id."""
        kind = kind_of(message)
        ids = sorted(record_id for catalog in self._catalogs(kind) for record_id in catalog.index.named(kind, name))
        return [found for record_id in ids if (found := self.get(message, record_id)) is not None]

    def page(self, message: type[M], after: int, limit: int) -> list[Found[M]]:
        """Return up to `limit` records with ids greater than `after`, ascending."""
        kind = kind_of(message)
        ids: list[int] = []
        for catalog in self._catalogs(kind):
            ids += catalog.index.after(kind, after, limit - len(ids))
        return [found for record_id in ids if (found := self.get(message, record_id)) is not None]

    def children(self, message: type[M], parent: int) -> Sequence[int]:
        """Return the ids of the records that belong to `parent`, ascending.

        Only those of the catalog that holds `parent` do: a record of another zone cannot put itself there.
        """
        kind = kind_of(message)
        catalog = self.catalog(PARENTS[kind][0], parent)
        return sorted(catalog.index.children(kind, parent)) if catalog else []

    def zone_name(self, zone: int) -> str:
        """Return the name that a zone gives itself; its number where that is not known yet."""
        found = self.get(ZoneRecord, zone)
        if found is None:
            return str(zone)
        value, name = self._names.get(zone, (b"", ""))
        if value != found.value:
            self._names[zone] = found.value, (name := found.message.name)
        return name

    def resolve(self, message: type[M], ref: int | str) -> Found[M]:
        """Return the one record that `ref` means: an id, a name, or `name@zone` where the name is ambiguous.

        Raises NotFound, or BadInput that lists the candidates.
        """
        kind = kind_of(message)
        if isinstance(ref, int):
            found = self.get(message, ref)
            if found is None:
                raise NotFound(f"there is no {kind} with id {ref} here: look at `fedmarket {kind} list`")
            return found
        candidates = self.named(message, ref) or self._named_in_zone(message, ref)
        if not candidates:
            raise NotFound(f"there is no {kind} named {ref!r} here: look at `fedmarket {kind} list`")
        if len(candidates) > 1:
            shown = ", ".join(f"{ref}@{self.zone_name(c.home)} (id {c.id})" for c in candidates)
            raise BadInput(f"{ref!r} may mean several {kind}s, {shown}: name one of these, or give its id")
        return candidates[0]

    def _named_in_zone(self, message: type[M], ref: str) -> list[Found[M]]:
        name, at, zone = ref.rpartition("@")
        if not at:
            return []
        return [found for found in self.named(message, name) if zone in {str(found.home), self.zone_name(found.home)}]

    def _catalogs(self, kind: str) -> Iterator[Catalog]:
        """Yield the catalogs that can hold a kind, in the order of their ids."""
        if kind in ZONE_LOCAL_KINDS:
            yield self.private
            return
        for catalog in self.federated():
            yield catalog
            if catalog is self.own:
                yield self.private

    def catalog(self, kind: str, record_id: int) -> Catalog | None:
        """Return the catalog that a record of this id is in, if there is one; None for a zone that is not known."""
        if kind in ZONE_LOCAL_KINDS:
            return self.private
        home = record_id if kind == ZONE_KIND else home_of(record_id)
        if home != self.zone:
            return self.replicas.get(home)
        private = kind != ZONE_KIND and record_id % IDS_PER_ZONE >= FIRST_PRIVATE
        return self.private if private else self.own
