"""Zones and links: what this zone is, and what it sees of the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from federation.catalog import Catalog
from federation.draft import Draft
from federation.head import CatalogId, SealedHead
from federation.link.link import LinkStatus
from federation.recall import Copy
from federation.repair import Repaired, Repairer
from fedmarket.errors import FedmarketError, NotFound
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    ZoneRecord,
)
from fedmarket.threads import uninterrupted
from zone_agent.services.catalogs import Catalogs


@dataclass(frozen=True, slots=True)
class SeenZone:
    """A zone as this one sees it."""

    id: int
    local: bool
    record: ZoneRecord | None
    """What it says of itself; None while it has not been heard of."""
    key: str
    address: str
    """Where we dial it; empty for this zone."""
    head: SealedHead | None


@dataclass(frozen=True, slots=True)
class Pinned:
    """A peer of zone.toml."""

    address: str
    key: str


class ZoneService:
    """The use cases of zones and links."""

    def __init__(
        self,
        catalogs: Catalogs,
        key: str,
        peers: Mapping[int, Pinned],
        links: Mapping[int, LinkStatus],
        repairers: Mapping[CatalogId, Repairer],
    ) -> None:
        self._catalogs = catalogs
        self._view = catalogs.view
        self._key = key
        self._peers = peers
        self._links = links
        self._repairers = repairers

    def list(self) -> Sequence[SeenZone]:
        """Return this zone and its peers, ascending."""
        return [self._see(zone) for zone in sorted({self._view.zone, *self._peers})]

    def show(self, ref: int | str | None) -> SeenZone:
        """Return one zone; this one for None. Raises NotFound."""
        if ref is None:
            return self._see(self._view.zone)
        for zone in self.list():
            if ref in {zone.id, zone.record.name if zone.record else None}:
                return zone
        raise NotFound(f"no zone {ref!r} is known here: look at `fedmarket zone list`, and at [[peers]] in zone.toml")

    def links(self) -> Sequence[tuple[SeenZone, LinkStatus]]:
        """Return each peer and what is known of the link to it."""
        return [(self._see(zone), self._links[zone]) for zone in sorted(self._links)]

    def readdress(self, zone: int, address: str) -> None:
        """Show a peer at another address, at which it is dialled from now on."""
        self._peers = {**self._peers, zone: Pinned(address, self._peers[zone].key)}

    async def publish(self, record: ZoneRecord) -> None:
        """Tell the federation what this zone is called and where it is reached, if that has changed.

        What else the zone's record says, by a person or by a newer version of the agent, stays.
        """
        zone = self._view.zone
        stored = self._view.get(ZoneRecord, zone)
        if stored is not None and _merged(stored.message, record) == stored.message:
            return

        def change(draft: Draft) -> None:
            known = draft.get(ZoneRecord, zone)
            if known is None:
                draft.add(zone, record)
            else:
                known.message.MergeFrom(record)
                draft.put(zone, known)

        await self._catalogs.change(change, private=False)

    def copy(self, ref: int | str | None) -> Copy:
        """Return the federated catalog of a zone, whole and verified; of this one for None. Raises NotFound."""
        zone = self.show(ref)
        catalog = self._view.own if zone.local else self._view.replicas[zone.id]
        if catalog.state is None:
            raise NotFound(
                f"no whole copy of the catalog of zone {zone.id} is here: look at `fedmarket federation status`"
            )
        return Copy(catalog.state.head, catalog.state.tree)

    @uninterrupted
    async def repair(self, *, accept: bool) -> Mapping[CatalogId, Repaired]:
        """Make the records of this zone's catalogs those of a signed head again, where they are not.

        One that cannot be repaired keeps not the other from it; then its error is raised. See `Repairer`.
        """
        done: dict[CatalogId, Repaired] = {}
        failures: list[FedmarketError] = []
        for catalog, repairer in self._repairers.items():
            try:
                done[catalog] = await repairer.repair(accept=accept)
            except FedmarketError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return done

    def _see(self, zone: int) -> SeenZone:
        found = self._view.get(ZoneRecord, zone)
        record = found.message if found else None
        if zone == self._view.zone:
            return SeenZone(zone, True, record, self._key, "", _head(self._view.own))
        peer = self._peers[zone]
        return SeenZone(zone, False, record, peer.key, peer.address, _head(self._view.replicas[zone]))


def _merged(stored: ZoneRecord, said: ZoneRecord) -> ZoneRecord:
    merged = ZoneRecord()
    merged.CopyFrom(stored)
    merged.MergeFrom(said)
    return merged


def _head(catalog: Catalog) -> SealedHead | None:
    return catalog.state.head if catalog.state else None
