"""Records as the native API shows them, with the names that are derived and never stored."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from drivers.capabilities import Usage
from drivers.registry import MARKET_DRIVERS
from federation.head import SealedHead
from federation.link.link import LinkStatus
from federation.link.sink import State
from federation.lost import LostRecord
from federation.scrub import ScrubSummary, Verdict
from federation.view import Found, View
from fedmarket.errors import BadInput
from fedmarket.pb.fedmarket.v1 import app_pb2, common_pb2, image_pb2, job_pb2, market_pb2, zone_pb2
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    LOCK_LEVEL_NONE,
    AppRecord,
    DatastoreRecord,
    ImageRecord,
    Lock,
    MarketRecord,
    Template,
)
from fedmarket.template import value_text
from zone_agent.jobs import Stored
from zone_agent.services.federation import ZoneCheck
from zone_agent.services.locate import market_of, state_of
from zone_agent.services.principal import group_name, permissions, user_name
from zone_agent.services.updates import HIDDEN
from zone_agent.services.zones import SeenZone
from zone_agent.stores import attributes_of

M = TypeVar("M", bound=Message)
S = TypeVar("S", bound=Message)

DEFAULT_PAGE = 1000
MAX_PAGE = 1000
"""Records of a page."""
MAX_PAGE_BYTES = 3 << 20
"""Of a page, below the 4 MiB that gRPC's clients take."""

SHOWN_APPS = 20_000
"""Apps that are kept as they were shown, about 1 KiB each: a list is asked for more often than its apps change."""

MAX_DIFFERING = 100
"""Keys of records that are told of one check."""


def ref(message: common_pb2.Ref) -> int | str:
    """Return what a Ref names. Raises BadInput if it names nothing."""
    match message.WhichOneof("ref"):
        case "id":
            return message.id
        case "name" if message.name:
            return message.name
        case _:
            raise BadInput("the request does not say which one is meant: give an id or a name")


def paged(
    page: common_pb2.Page, read: Callable[[int, int], Sequence[Found[M]]], project: Callable[[Found[M]], S]
) -> tuple[list[S], int]:
    """Return a page as it is shown, and what to give for the next one; -1: there is none.

    It holds fewer than were asked for if they would not fit a message together.
    """
    size = min(page.size, MAX_PAGE) if page.size > 0 else DEFAULT_PAGE
    shown: list[S] = []
    left = MAX_PAGE_BYTES
    last = page.after if page.HasField("after") else -1
    for found in read(last, size + 1):
        one = project(found)
        left -= one.ByteSize()
        if shown and (left < 0 or len(shown) == size):
            return shown, last
        shown.append(one)
        last = found.id
    return shown, -1


@dataclass(frozen=True, slots=True)
class _ShownApp:
    """An app as it was shown, and what that was made from."""

    value: bytes
    market: bytes
    zone: str
    app: app_pb2.App


class Projector:
    """Makes the API's messages from records."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._apps: OrderedDict[int, _ShownApp] = OrderedDict()

    def market(self, found: Found[MarketRecord]) -> market_pb2.Market:
        """Return a market. The values of secret attributes are not shown."""
        m = found.message
        driver = MARKET_DRIVERS.get(m.driver)
        secrets = driver.secrets if driver else frozenset()
        attributes = {k: HIDDEN if k in secrets else v for k, v in _shown(m.template).items()}
        shown = market_pb2.Market(
            id=found.id,
            name=m.name,
            zone_id=found.home,
            zone=self._view.zone_name(found.home),
            state=m.state,
            driver=m.driver,
            scope=common_pb2.SCOPE_ZONE if found.private else common_pb2.SCOPE_FEDERATION,
            owner_id=m.owner.uid,
            owner=user_name(m.owner),
            group_id=m.owner.gid,
            group=group_name(m.owner),
            permissions=permissions(m.mode),
            app_count=len(self._view.children(AppRecord, found.id)),
            total_mb=m.total_mb,
            free_mb=m.free_mb,
            used_mb=m.used_mb,
            attributes=attributes,
            uid=found.record.uid,
        )
        shown.registered.FromSeconds(m.register_time)
        return shown

    def app(self, found: Found[AppRecord]) -> app_pb2.App:
        """Return an app: the same object, which nobody is to change, for as long as it shows what is so."""
        zone = self._view.zone_name(found.home)
        known = self._apps.get(found.id)
        if known is not None and known.value == found.value and known.zone == zone:
            market = self._view.get(MarketRecord, known.app.market_id)
            if known.market == (market.value if market is not None else b""):
                return known.app
        market = self._view.get(MarketRecord, found.message.market_id)
        shown = self._app(found)
        self._apps[found.id] = _ShownApp(found.value, market.value if market is not None else b"", zone, shown)
        if len(self._apps) > SHOWN_APPS:
            self._apps.popitem(last=False)
        return shown

    def _app(self, found: Found[AppRecord]) -> app_pb2.App:
        m = found.message
        market = market_of(self._view, found)
        attributes = _shown(m.template)
        shown = app_pb2.App(
            id=found.id,
            name=m.name,
            zone_id=found.home,
            zone=self._view.zone_name(found.home),
            market_id=m.market_id,
            market=market.message.name if market else "",
            state=state_of(m, market),
            type=m.type,
            owner_id=m.owner.uid,
            owner=user_name(m.owner),
            group_id=m.owner.gid,
            group=group_name(m.owner),
            permissions=permissions(m.mode),
            origin_id=m.origin_id,
            source=m.source,
            format=m.format,
            md5=m.md5.hex(),
            sha256=m.sha256.hex(),
            size_bytes=m.size_bytes,
            virtual_bytes=m.virtual_bytes,
            version=attributes.get("VERSION", ""),
            description=attributes.get("DESCRIPTION", ""),
            error=m.error.text,
            uid=found.record.uid,
            attributes=attributes,
        )
        shown.registered.FromSeconds(m.register_time)
        _show_lock(shown, m.lock)
        return shown

    def image(self, found: Found[ImageRecord], source: str) -> image_pb2.Image:
        """Return an image; `source` is where its datastore keeps it."""
        m = found.message
        datastore = self._view.get(DatastoreRecord, m.datastore_id)
        attributes = _shown(m.template)
        from_app = attributes.get("FROM_APP", "")
        shown = image_pb2.Image(
            id=found.id,
            name=m.name,
            zone_id=found.home,
            zone=self._view.zone_name(found.home),
            datastore_id=m.datastore_id,
            datastore=datastore.message.name if datastore else "",
            state=m.state,
            type=m.type,
            owner_id=m.owner.uid,
            owner=user_name(m.owner),
            group_id=m.owner.gid,
            group=group_name(m.owner),
            permissions=permissions(m.mode),
            persistent=m.persistent,
            format=m.format,
            md5=m.md5.hex(),
            sha256=m.sha256.hex(),
            size_bytes=m.size_bytes,
            virtual_bytes=m.virtual_bytes,
            source=source,
            path=m.path,
            error=m.error.text,
            from_app_id=int(from_app) if from_app.isdecimal() else -1,
            uid=found.record.uid,
            attributes=attributes,
        )
        shown.registered.FromSeconds(m.register_time)
        _show_lock(shown, m.lock)
        return shown

    def datastore(self, found: Found[DatastoreRecord], images: int, usage: Usage | None) -> image_pb2.Datastore:
        """Return a datastore."""
        m = found.message
        return image_pb2.Datastore(
            id=found.id,
            name=m.name,
            zone_id=found.home,
            zone=self._view.zone_name(found.home),
            state=m.state,
            type=m.type,
            driver=m.driver,
            image_count=images,
            total_mb=usage.total_mb if usage else 0,
            free_mb=usage.free_mb if usage else 0,
            used_mb=usage.used_mb if usage else 0,
            attributes=attributes_of(m.template),
        )


def _shown(template: Template) -> dict[str, str]:
    """Return a template's attributes, vectors as text; of a name that is there several times, the last.

    What is neither a value nor a vector is of a newer version, and left out.
    """
    shown = {}
    for attribute in template.attributes:
        match attribute.WhichOneof("content"):
            case "value":
                shown[attribute.name] = attribute.value
            case "vector":
                shown[attribute.name] = value_text(attribute)
    return shown


def _show_lock(shown: app_pb2.App | image_pb2.Image, lock: Lock) -> None:
    if lock.level == LOCK_LEVEL_NONE:
        shown.lock_owner_id = -1
        return
    shown.lock, shown.lock_owner_id, shown.lock_owner = lock.level, lock.owner.uid, user_name(lock.owner)
    shown.locked.FromSeconds(lock.time)


def zone(seen: SeenZone) -> zone_pb2.Zone:
    """Return a zone."""
    shown = zone_pb2.Zone(id=seen.id, local=seen.local, key=seen.key, peer_endpoint=seen.address, head=head(seen.head))
    if seen.record is not None:
        record = seen.record
        shown.name, shown.state, shown.version = record.name, record.state, record.version
        shown.grpc_endpoint, shown.http_endpoint = record.grpc_endpoint, record.http_endpoint
        shown.peer_endpoint = record.peer_endpoint or seen.address
    return shown


def link(seen: SeenZone, status: LinkStatus) -> zone_pb2.Link:
    """Return what is known of the link to a peer."""
    age = status.age(time.monotonic())
    shown = zone_pb2.Link(
        zone_id=seen.id,
        name=seen.record.name if seen.record else "",
        state=_LINK_STATES[status.state],
        here=head(seen.head),
        there=head(status.there),
        age_seconds=-1 if age is None else round(age, 3),
        last_error=status.last_error,
        address=seen.address,
    )
    if status.last_error_time:
        shown.last_error_time.FromMilliseconds(int(status.last_error_time * 1000))
    return shown


_LINK_STATES = {
    State.DOWN: zone_pb2.LINK_STATE_DOWN,
    State.TAIL: zone_pb2.LINK_STATE_TAIL,
    State.DIFF: zone_pb2.LINK_STATE_DIFF,
    State.FORKED: zone_pb2.LINK_STATE_FORKED,
    State.REFUSED: zone_pb2.LINK_STATE_REFUSED,
    State.SHARED: zone_pb2.LINK_STATE_SHARED,
}


_VERDICTS = {
    Verdict.OK: zone_pb2.SCRUB_VERDICT_OK,
    Verdict.EMPTY: zone_pb2.SCRUB_VERDICT_EMPTY,
    Verdict.SYNCING: zone_pb2.SCRUB_VERDICT_SYNCING,
    Verdict.REPAIRING: zone_pb2.SCRUB_VERDICT_REPAIRING,
    Verdict.ALARM: zone_pb2.SCRUB_VERDICT_ALARM,
}


def catalog_check(found: ZoneCheck) -> zone_pb2.CatalogCheck:
    """Return what a scrub found of a catalog."""
    check = found.check
    return zone_pb2.CatalogCheck(
        zone_id=check.subject.catalog.home,
        zone=found.zone,
        catalog=check.subject.kind,
        verdict=_VERDICTS[check.verdict],
        head=head(check.head),
        count=check.count,
        differs=check.differs[:MAX_DIFFERING],
        reason=check.reason,
        there=head(found.there),
        current=found.current,
        repaired=found.repaired,
        found=found.found,
    )


def scrub_summary(summary: ScrubSummary, strays: int, checks: Iterable[ZoneCheck]) -> zone_pb2.ScrubSummary:
    """Return what scrubs have found so far."""
    shown = zone_pb2.ScrubSummary(
        scrubs=summary.scrubs,
        faults=summary.faults,
        repairs=summary.repairs,
        strays=strays,
        catalogs=[catalog_check(check) for check in checks],
    )
    if summary.last_time:
        shown.last.FromMilliseconds(int(summary.last_time * 1000))
    return shown


def lost_record(zone: str, lost: LostRecord) -> zone_pb2.LostRecord:
    """Return a record that a DIFF removed; without a name where this version cannot read it."""
    return zone_pb2.LostRecord(
        zone_id=lost.home,
        zone=zone,
        epoch=lost.epoch,
        kind=lost.kind,
        id=lost.id,
        name=lost.name,
        size_bytes=len(lost.value),
    )


def head(sealed: SealedHead | None) -> zone_pb2.HeadSummary | None:
    """Return what is told of a head."""
    if sealed is None:
        return None
    h = sealed.head
    return zone_pb2.HeadSummary(epoch=h.epoch, seq=h.seq, root=h.root.hex(), count=h.count)


def job(stored: Stored) -> job_pb2.Job:
    """Return a job."""
    record = stored.record
    of = record.object
    shown = job_pb2.Job(
        id=stored.id,
        kind=record.kind,
        state=record.state,
        phase=record.phase,
        done_bytes=record.done_bytes,
        total_bytes=record.total_bytes,
        error=record.error.text,
        code=record.code,
        object_id=of.id,
        object_kind=of.kind,
        object_name=of.name,
        attempts=record.attempts,
        agent=record.agent,
        cancelling=record.cancel and not stored.ended,
        target=record.target,
        owner_id=record.principal.uid,
        owner_zone_id=record.principal.zone,
    )
    shown.started.FromMilliseconds(record.started_ms)
    if record.ended_ms:
        shown.ended.FromMilliseconds(record.ended_ms)
    return shown
