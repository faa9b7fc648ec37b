"""The federation as its operators see to it: scrubbing, links in a fault, and what is kept of peers."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

from federation.catalog import Catalog
from federation.head import FEDERATION, SealedHead
from federation.keys import MAX_ZONE, Keyspace, check_zone_id
from federation.link.link import STICKY, Link, LinkStatus
from federation.link.sink import State
from federation.lost import LostRecord, forget_replica, lost_records
from federation.scrub import Check, Scrubber, ScrubSummary, Subject
from federation.store import Store
from fedmarket.errors import BadInput, NotFound, Refused
from fedmarket.threads import uninterrupted
from zone_agent.duties import Duties
from zone_agent.services.catalogs import Catalogs
from zone_agent.services.zones import SeenZone, ZoneService

log = logging.getLogger(__name__)

DUTY = "scrub"
UP = frozenset({State.TAIL, State.DIFF, State.SHARED})


@dataclass(frozen=True, slots=True)
class FederationSettings:
    """Bounds, in seconds."""

    scrub_seconds: float = 3600.0
    """Between two scrubs, on average."""
    retry_seconds: float = 5.0
    """How long `retry` waits for what comes of it."""
    catch_up_seconds: float = 10.0
    """How long to wait for our own watch."""


@dataclass(frozen=True, slots=True)
class ZoneCheck:
    """What a scrub found of a catalog, and what its zone says of it."""

    check: Check
    zone: str
    """Name of the zone whose catalog it is."""
    found: int
    """How often it was found damaged since the agent was started."""
    there: SealedHead | None
    """Of a replica: the newest head that the peer said it has."""
    repaired: bool = False
    """Whether it was not whole at first."""

    @property
    def current(self) -> bool | None:
        """Whether a replica is what its peer said it has; None: the peer has said nothing, or it is no replica."""
        if self.there is None:
            return None
        return self.check.head is not None and self.check.head.hash == self.there.hash


class FederationService:
    """The use cases of who runs a zone among others."""

    def __init__(
        self,
        catalogs: Catalogs,
        zones: ZoneService,
        links: Mapping[int, Link],
        replicas: Mapping[int, Catalog],
        scrubber: Scrubber,
        store: Store,
        keyspace: Keyspace,
        duties: Duties,
        settings: FederationSettings,
        upkeep_alarms: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._catalogs = catalogs
        self._view = catalogs.view
        self._zones = zones
        self._links = links
        self._replicas = replicas
        self._scrubber = scrubber
        self._store = store
        self._keyspace = keyspace
        self._duties = duties
        self._settings = settings
        self._upkeep_alarms = upkeep_alarms

    async def run(self) -> None:
        """Scrub again and again, as the one agent of the zone whose duty that is, and not in step with other zones."""
        await self._forget_former_peers()  # there are none but those that an earlier zone.toml had
        while True:
            await asyncio.sleep(self._settings.scrub_seconds * (0.5 + random.random()))  # noqa: S311 - no secret
            if await self._duties.try_claim(DUTY):
                await self._scrubber.scrub_all()

    async def _forget_former_peers(self) -> None:
        """Delete what is stored of zones that are in zone.toml no more: none of it is shown since the agent started."""
        for home in range(MAX_ZONE + 1):
            if home not in self._replicas:
                forgotten = await forget_replica(self._store, self._keyspace, home)
                if forgotten.keys:
                    log.warning(
                        "zone %d is no peer any more: its copy here, %d keys, was deleted", home, forgotten.keys
                    )

    # -- scrubbing

    def alarms(self) -> Sequence[str]:
        """Return what a person must see to: why changes are refused, what is not believed, links, what upkeep found."""
        catalogs = (self._view.own, self._view.private, *self._replicas.values())
        faults = [reason for catalog in catalogs if (reason := catalog.fault or catalog.barred)]
        links = [
            f"the link to zone {self._catalogs.called(zone)} is {link.status.state.value} ({link.status.last_error}): "
            f"`fedmarket federation retry {zone}` tries it again"
            for zone, link in sorted(self._links.items())
            if link.status.state in STICKY
        ]
        return [*faults, *links, *self._upkeep_alarms()]

    def summary(self) -> ScrubSummary:
        """Return what scrubs have found so far."""
        return self._scrubber.summary

    def strays(self) -> int:
        """Return how often etcd's watch told of records that somebody changed past the protocol."""
        return self._scrubber.strays

    def last_checks(self) -> Sequence[ZoneCheck]:
        """Return what was found last of each catalog."""
        return [self._of_zone(check) for check in self._scrubber.summary.last.values()]

    async def verify(self, ref: int | str | None) -> AsyncGenerator[ZoneCheck, None]:
        """Scrub now: the catalogs of one zone, or of all. What was damaged is given again when it is repaired.

        Ends when all is settled, which may be never where a peer does not answer. Raises NotFound.
        """
        unsettled = []
        async with aclosing(self._scrubber.scrub(self._subjects(ref))) as checks:
            async for check in checks:
                yield self._of_zone(check)
                if not check.settled:
                    unsettled.append(check)
        for check in unsettled:
            yield replace(self._of_zone(await self._scrubber.settled(check)), repaired=True)

    def _subjects(self, ref: int | str | None) -> Sequence[Subject]:
        subjects = self._scrubber.subjects()
        if ref is None:
            return subjects
        zone = self._zones.show(ref).id
        return [subject for subject in subjects if subject.catalog.home == zone]

    def _of_zone(self, check: Check) -> ZoneCheck:
        home = check.subject.catalog.home
        link = self._links.get(home) if check.subject.kind == FEDERATION else None
        there = link.status.there if link else None
        return ZoneCheck(check, self._view.zone_name(home), self._scrubber.found(check.subject.catalog), there)

    # -- links

    async def retry(self, ref: int | str) -> tuple[SeenZone, LinkStatus]:
        """Dial a peer at once, also one whose link is in a sticky fault; return what came of it after a moment.

        A link that is up is left as it is. Raises NotFound, or BadInput for this zone itself.
        """
        zone = self._zones.show(ref)
        link = self._links.get(zone.id)
        if link is None:
            raise BadInput(
                f"zone {self._catalogs.called(zone.id)} is this zone itself, which has no link: name one of its peers"
            )
        before = link.dials  # of which the last may be failing just now
        if link.status.state not in UP:
            link.retry()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.retry_seconds):
                while link.status.state not in UP and link.ended <= before:
                    link.tried.clear()
                    await link.tried.wait()
        return zone, link.status

    # -- what is kept of peers

    async def lost(self, ref: int | str | None, epoch: int) -> AsyncGenerator[tuple[str, LostRecord], None]:
        """Yield the records that DIFFs removed, with the name of their zone; of one peer or all; epoch 0: of all."""
        homes = sorted(self._links) if ref is None else [self._stored_zone(ref)]
        for home in homes:
            for record in await lost_records(self._store, self._keyspace, home):
                if epoch in {0, record.epoch}:
                    yield self._view.zone_name(home), record

    async def show_lost(self, ref: int | str, kind: str, record_id: int, epoch: int) -> tuple[str, LostRecord]:
        """Return one lost record, that of the newest epoch for epoch 0. Raises NotFound."""
        newest: tuple[str, LostRecord] | None = None
        async for name, record in self.lost(ref, epoch):
            if (record.kind, record.id) == (kind, record_id):
                newest = name, record
        if newest is None:
            raise NotFound(f"no record {kind}/{record_id} of zone {ref} was lost: look at `fedmarket federation lost`")
        return newest

    @uninterrupted
    async def forget(self, ref: int | str) -> tuple[int, int]:
        """Delete all that is stored of a zone; return its id and how many keys that were.

        Only of one that is no peer any more, or whose copy is not believed; that one is then fetched anew. Raises
        Refused, NotFound.
        """
        zone = self._stored_zone(ref)
        replica = self._replicas.get(zone)
        if replica is not None and not replica.fault:
            raise Refused(
                f"zone {self._catalogs.called(zone)} is a peer, and the copy of its catalog is good: "
                "remove it from [[peers]] in zone.toml and start the agent again before it is forgotten"
            )
        forgotten = await forget_replica(self._store, self._keyspace, zone)
        if not forgotten.keys:
            raise NotFound(f"nothing is stored here of a zone {zone}: look at `fedmarket zone list`")
        if replica is not None:
            await replica.wait_applied(forgotten.revision, self._settings.catch_up_seconds)
            self._links[zone].retry()
        return zone, forgotten.keys

    def _stored_zone(self, ref: int | str) -> int:
        """Return the id of another zone, which need not be a peer any more if it is given by its id."""
        zone = check_zone_id(ref) if isinstance(ref, int) else self._zones.show(ref).id
        if zone == self._view.zone:
            raise BadInput(f"zone {zone} is this zone itself, which keeps no copy of itself: name another zone")
        return zone
