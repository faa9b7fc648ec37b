"""Where the bytes of an app can be read: at home from its market, elsewhere as its home says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from drivers.capabilities import OnDisk, Published
from federation.view import Found, View
from fedmarket.errors import Corrupt, NotFound, Refused
from fedmarket.jsonview import enum_word
from fedmarket.pb.fedmarket.v1.peer_pb2 import LocateResponse, Source
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_DISABLED,
    APP_STATE_READY,
    MARKET_STATE_DISABLED,
    AppRecord,
    AppState,
    MarketRecord,
)
from zone_agent.services.locks import Operation, require_unlocked
from zone_agent.stores import Stores
from zone_agent.transfer.signing import UrlSigner


class PeerCalls(Protocol):
    """What is asked of other zones."""

    async def locate(self, zone: int, app_id: int) -> LocateResponse:
        """Ask an app's home where its bytes are. Raises Unavailable if that zone cannot be reached."""
        ...


@dataclass(frozen=True, slots=True)
class Location:
    """What is needed to fetch an app."""

    urls: Sequence[str]
    """Nearest first. They may be signed: never stored, never logged."""
    size: int
    sha256: bytes
    format: str


class Locator:
    """Finds the bytes of apps."""

    def __init__(
        self,
        view: View,
        stores: Stores,
        peers: PeerCalls,
        signer: UrlSigner,
        base_url: Callable[[], str],
        lifetime: int,
    ) -> None:
        self._view = view
        self._stores = stores
        self._peers = peers
        self._signer = signer
        self._base_url = base_url
        self._lifetime = lifetime

    def limit(self, lifetime: int) -> None:
        """Sign URLs for so many seconds from now on."""
        self._lifetime = lifetime

    async def locate(self, app: Found[AppRecord]) -> Location:
        """Return where an app can be read. Raises Refused if it is not ready, Unavailable if its home is away."""
        require_ready(self._view, app)
        if app.home == self._view.zone:
            answer = self._here(app)
        else:
            answer = await self._peers.locate(app.home, app.id)
        message = app.message
        if (answer.sha256, answer.size_bytes) != (message.sha256, message.size_bytes):
            raise Corrupt(
                f"zone {self._view.zone_name(app.home)} offers other bytes for app {message.name!r} than its catalog "
                "names: try again when this zone has caught up with it"
            )
        return Location([s.url for s in answer.sources], message.size_bytes, message.sha256, message.format)

    def for_peer(self, app_id: int) -> LocateResponse:
        """Tell a peer where a federated app of this zone can be read. Raises NotFound, Refused."""
        app = self._view.get(AppRecord, app_id)
        if app is None or app.home != self._view.zone or app.private:
            raise NotFound(f"zone {self._view.zone} has no federated app {app_id}: look at `fedmarket app list`")
        require_ready(self._view, app)
        return self._here(app)

    def _here(self, app: Found[AppRecord]) -> LocateResponse:
        message = app.message
        return LocateResponse(
            sources=[Source(url=url, zone_id=self._view.zone) for url in self._urls(app)],
            size_bytes=message.size_bytes,
            sha256=message.sha256,
            format=message.format,
        )

    def path(self, market_id: int, name: str) -> Path:
        """Return the file behind a signed URL of ours. Raises NotFound."""
        store = self._stores.market(self._view.resolve(MarketRecord, market_id))
        if not isinstance(store, OnDisk):
            raise NotFound(f"market {market_id} keeps no files of its own: ask for the app's sources again")
        return store.path(name)

    def _urls(self, app: Found[AppRecord]) -> list[str]:
        message = app.message
        store = self._stores.market(self._view.resolve(MarketRecord, message.market_id))
        published = store.public_url(message.object) if isinstance(store, Published) else None
        urls = [published] if published else []
        if isinstance(store, OnDisk):
            urls.append(self._signer.sign(self._base_url(), message.market_id, message.object, self._lifetime))
        return urls


def market_of(view: View, app: Found[AppRecord]) -> Found[MarketRecord] | None:
    """Return an app's market; None where it is gone, or of another zone, whatever the app's record says."""
    market = view.get(MarketRecord, app.message.market_id)
    return market if market is not None and market.home == app.home else None


def state_of(app: AppRecord, market: Found[MarketRecord] | None) -> AppState.ValueType:
    """Return the state that an app is shown in: one that is READY is DISABLED while its market is."""
    disabled = market is not None and market.message.state == MARKET_STATE_DISABLED
    return APP_STATE_DISABLED if disabled and app.state == APP_STATE_READY else app.state


def require_ready(view: View, app: Found[AppRecord]) -> None:
    """Raise Refused if an app cannot be read now: it is not READY, or locked, or its market is disabled."""
    message, market = app.message, market_of(view, app)
    state = state_of(message, market)
    if state != APP_STATE_READY:
        word = enum_word(AppState.DESCRIPTOR, state).upper()
        if market is not None and state != message.state:
            reason = f" (its market {market.message.name!r} is disabled)"
        else:
            reason = f" ({message.error.text})" if message.error.text else ""
        raise Refused(f"app {message.name!r} is {word}, not READY{reason}: look at `fedmarket app show {app.id}`")
    require_unlocked(f"app {message.name!r}", message.lock, Operation.USE)
