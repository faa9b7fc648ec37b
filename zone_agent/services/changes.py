"""Changes of records that exist: made here if this is their home, else by their home."""

import secrets
import time
from dataclasses import dataclass

from google.protobuf.message import Message

from federation.draft import Draft
from federation.records import KINDS
from federation.requests import RequestId, Ticket, refusal_of
from federation.view import Found
from fedmarket.errors import BadInput, Denied, FedmarketError, NotFound, OutcomeUnknown, Unavailable
from fedmarket.pb.fedmarket.v1.change_pb2 import Change, Verb
from fedmarket.pb.fedmarket.v1.peer_pb2 import (
    ForwardRequest,
    ForwardResponse,
    Made,
    Refusal,
    RequestRecord,
)
from fedmarket.threads import uninterrupted
from zone_agent.services import verbs
from zone_agent.services.apps import AppService
from zone_agent.services.catalogs import Catalogs
from zone_agent.services.forwarding import Forwarder
from zone_agent.services.images import ImageService
from zone_agent.services.markets import MarketService, delete_market
from zone_agent.services.once import Once
from zone_agent.services.principal import Principal
from zone_agent.services.space import note_usage

CHANGED_KINDS = ("market", "app", "image")


@dataclass(frozen=True, slots=True)
class Changed:
    """A change that was made."""

    id: int
    home: int
    visible: bool
    """Whether this zone sees it already; it always does if it is the home."""
    request_id: str


class ChangeService:
    """The one way in which markets, apps and images are changed, in whichever zone that is asked."""

    def __init__(
        self,
        catalogs: Catalogs,
        once: Once,
        forwarder: Forwarder,
        markets: MarketService,
        apps: AppService,
        images: ImageService,
    ) -> None:
        self._catalogs = catalogs
        self._view = catalogs.view
        self._once = once
        self._forwarder = forwarder
        self._markets = markets
        self._apps = apps
        self._images = images

    async def change(
        self, principal: Principal, kind: str, ref: int | str, verb: Verb, request_id: str = ""
    ) -> Changed:
        """Change a record of any zone. With a request id, asking again makes no second change.

        Raises Unavailable, and nothing was sent, if the record's home cannot be reached; OutcomeUnknown, with the
        request id, if no answer came.
        """
        change, home = await self._aim(kind, ref, verb, request_id)
        if home != self._view.zone:
            request = RequestId.of(self._view.zone, request_id or secrets.token_hex(16))
            asked = ForwardRequest(request_id=request.id, principal=principal.owner(), change=change)
            changed_id, visible = await self._forwarder.forward(home, asked)
            return Changed(changed_id, home, visible, request.id)
        request_here = RequestId.of(home, request_id) if request_id else None
        return Changed(await self._decide(principal, change, request_here), home, True, request_id)

    async def resolve(self, request_id: str, zone: int) -> Made | Refusal:
        """Return what became of a request that was asked for here; one that was not made never will be.

        Raises OutcomeUnknown if the zone that was to make it does not answer, Unavailable while it is being made.
        """
        request = RequestId.of(self._view.zone, request_id)
        if zone != self._view.zone:
            return await self._forwarder.settle(zone, request.id)
        return self._settled(await self._once.settle(request))

    async def decide_for_peer(self, zone: int, asked: ForwardRequest) -> ForwardResponse:
        """Decide a change that a user of another zone asked for there."""
        try:
            principal = Principal(asked.principal.zone, asked.principal.uid, asked.principal.gid)
            if principal.zone != zone:
                raise Denied(f"zone {zone} cannot speak for a user of zone {principal.zone}: ask in that zone")
            self._require_shared(asked.change)
            await self._decide(principal, asked.change, RequestId.of(zone, asked.request_id))
        except FedmarketError as error:
            return _answer(error)
        return ForwardResponse(made=self._made(asked.change.id))

    async def settle_for_peer(self, zone: int, request_id: str) -> ForwardResponse:
        """Make definite what became of a request that another zone forwarded."""
        try:
            outcome = self._settled(await self._once.settle(RequestId.of(zone, request_id)))
        except FedmarketError as error:
            return _answer(error)
        return ForwardResponse(refusal=outcome) if isinstance(outcome, Refusal) else ForwardResponse(made=outcome)

    async def _aim(self, kind: str, ref: int | str, verb: Verb, request_id: str) -> tuple[Change, int]:
        """Return the change of the record that is meant, and its home.

        A record that is gone is named by its id all the same: its home knows whether this very request deleted it. So
        is one of this zone whose name this very request has changed or removed.
        """
        message = _message(kind)
        if isinstance(ref, int) and self._view.get(message, ref) is None:
            catalog = self._view.catalog(kind, ref)
            if catalog is not None:
                return Change(kind=kind, id=ref, verb=verb), catalog.home
        try:
            found: Found[Message] = self._view.resolve(message, ref)
        except NotFound:
            noted = await self._once.noted(RequestId.of(self._view.zone, request_id)) if request_id else None
            if noted is None:
                raise
            return Change(kind=kind, id=noted.id, verb=verb), self._view.zone
        return Change(kind=kind, id=found.id, uid=found.record.envelope.uid, verb=verb), found.home

    def _require_shared(self, change: Change) -> None:
        """Raise NotFound for a record that peers cannot see, or that is at home elsewhere."""
        _message(change.kind)
        if self._view.catalog(change.kind, change.id) is not self._view.own:
            raise NotFound(f"zone {self._view.zone} shares no {change.kind} with id {change.id}: look at the list")

    async def _decide(self, principal: Principal, change: Change, request: RequestId | None) -> int:
        """Make a change of a record of this zone, and return the record's id."""
        catalog = self._view.catalog(change.kind, change.id)
        if request is None or catalog is None:
            return await self._make(principal, change, None)
        return await self._once.make(request, change, catalog, lambda ticket: self._make(principal, change, ticket))

    @uninterrupted
    async def _make(self, principal: Principal, change: Change, ticket: Ticket | None) -> int:
        """Make a change; the commits that make it note the ticket."""
        found = self._view.get(_message(change.kind), change.id)
        if found is None or change.uid not in {b"", found.record.envelope.uid}:
            raise NotFound(f"there is no {change.kind} with id {change.id}: look at `fedmarket {change.kind} list`")
        verb = change.verb.WhichOneof("verb")
        match change.kind, verb:
            case "app", "delete":
                await self._apps.delete(principal, found.id, ticket)
            case "image", "delete":
                await self._images.delete(principal, found.id, ticket)
            case _:
                verbs.check_names(self._view, change)
                now = int(time.time())
                measured = (change.kind, verb) == ("market", "monitor")
                usage = await self._markets.measure(self._markets.show(change.id)) if measured else None

                def commit(draft: Draft) -> None:
                    if ticket is not None:
                        ticket.made(draft, change.id)
                    if verb == "delete":
                        delete_market(draft, change.id)
                    elif usage is not None:
                        note_usage(draft, change.id, usage)
                    else:
                        verbs.apply(draft, change, principal, now)

                await self._catalogs.change(commit, private=found.private)
        return found.id

    def _settled(self, record: RequestRecord) -> Made | Refusal:
        return record.refusal if record.HasField("refusal") else self._made(record.id)

    def _made(self, record_id: int) -> Made:
        epoch, seq = self._view.own.pair
        return Made(id=record_id, epoch=epoch, seq=seq)


def _message(kind: str) -> type[Message]:
    if kind not in CHANGED_KINDS:
        raise BadInput(f"nothing of kind {kind[:20]!r} can be changed: say {', '.join(CHANGED_KINDS)}")
    return KINDS[kind]


def _answer(error: FedmarketError) -> ForwardResponse:
    if isinstance(error, Unavailable | OutcomeUnknown):
        return ForwardResponse(pending=error.message)
    return ForwardResponse(refusal=refusal_of(error))
