"""Mutual TLS between zones: what an agent presents, whom it trusts, and which peer is calling."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import grpc

from federation.trust.certificates import Leaf, anchor, dns_name, issue_leaf, zone_of_leaf
from federation.trust.keys import PublicKey, ZoneKey
from fedmarket.errors import ConfigError, NotFound, Unauthenticated

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How long certificates live."""

    leaf_lifetime: timedelta = timedelta(hours=24)
    """From now to the end of a leaf; another one is presented after half of it."""
    clock_skew: timedelta = timedelta(minutes=5)
    """How far a peer's clock may be behind this one."""


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """What a channel to one peer is made with."""

    credentials: grpc.ChannelCredentials
    options: tuple[tuple[str, str], ...]
    """Channel options that must go with the credentials."""
    renew_at: datetime
    """Make a new channel from here on: a channel keeps its leaf, and an expired one is refused."""


@dataclass(frozen=True, slots=True, eq=False)
class Trust:
    """The peers at one moment. Replaced as a whole, so that every thread sees a consistent one without a lock."""

    pinned: Mapping[int, PublicKey]
    anchors: Mapping[int, bytes]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Identity:
    """A zone towards its peers: its own key, and the keys it has pinned of them. Safe to use from any thread.

    `set_peers` and the constructor raise ConfigError if a peer has this zone's id or if two zones have one key, which
    then could speak for either.
    """

    def __init__(
        self,
        zone_id: int,
        zone_key: ZoneKey,
        peers: Mapping[int, PublicKey],
        *,
        clock: Callable[[], datetime] = _utc_now,
        settings: TlsSettings | None = None,
    ) -> None:
        self.zone_id = zone_id
        self._zone_key = zone_key
        self._clock = clock
        self._settings = settings or TlsSettings()
        self._trust = self._trust_in(peers)

    @property
    def trust(self) -> Trust:
        """The peers as they are now."""
        return self._trust

    def set_peers(self, peers: Mapping[int, PublicKey]) -> None:
        """Trust exactly these peers from now on: for new connections, and for new calls on those that are open.

        Ending the open streams of a peer that is gone is up to whoever serves them. A ConfigError changes nothing.
        """
        self._trust = self._trust_in(peers)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials for one listening port; grpc does not bind a second one with the same.

        Peers and leaf are brought up to date at each connection, so that neither needs a restart.
        """
        certificates = ServerCertificates(self)
        return grpc.dynamic_ssl_server_credentials(
            certificates.initial,
            certificates,  # type: ignore[arg-type]  # the stubs lack None, which stands for no change
            require_client_authentication=True,
        )

    def channel_credentials(self, peer_id: int) -> PeerCredentials:
        """Return credentials with a fresh leaf for one new channel, which accept that peer alone.

        Raises NotFound if the zone is no peer.
        """
        root = self._trust.anchors.get(peer_id)
        if root is None:
            raise NotFound(f"zone {peer_id} is no peer of zone {self.zone_id}: pin its key first")
        leaf = self.issue_leaf()
        return PeerCredentials(
            credentials=grpc.ssl_channel_credentials(root, leaf.private_key, leaf.certificate),
            options=(("grpc.ssl_target_name_override", dns_name(peer_id)),),
            renew_at=leaf.renew_at,
        )

    def caller(self, context: "grpc.aio.ServicerContext[Any, Any]") -> int:
        """Return the id of the peer that makes a call.

        Raises Unauthenticated on a connection without a client certificate, Denied if the certificate does not hold.
        """
        pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
        if pem is None:
            raise Unauthenticated(
                "the connection has no client certificate: peers connect by mutual TLS, to the port for peers"
            )
        return zone_of_leaf(pem, self._trust.pinned, self.now())

    def issue_leaf(self) -> Leaf:
        """Issue a leaf of this zone."""
        return issue_leaf(
            self._zone_key,
            self.zone_id,
            self.now(),
            self._settings.leaf_lifetime,
            self._settings.clock_skew,
        )

    def now(self) -> datetime:
        """Return the time by which certificates are made and judged."""
        return self._clock()

    def _trust_in(self, peers: Mapping[int, PublicKey]) -> Trust:
        if self.zone_id in peers:
            raise ConfigError(f"a peer has id {self.zone_id}, which is this zone's own: give the peer's id")
        zone_of_key = {self._zone_key.public: self.zone_id}
        for peer_id, key in peers.items():
            other = zone_of_key.setdefault(key, peer_id)
            if other != peer_id:
                raise ConfigError(
                    f"zones {other} and {peer_id} have the same key, {key}: pin to each zone the key that is its own"
                )
        return Trust(
            pinned=MappingProxyType(dict(peers)),
            anchors={peer_id: anchor(key, peer_id) for peer_id, key in peers.items()},
        )


class ServerCertificates:
    """What one listening port presents and trusts. grpc calls it at each connection, on threads of its own."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._lock = threading.Lock()
        self.initial = self._configure()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        """Return a new configuration if leaf or peers have changed, None to go on with the last. Never raises."""
        try:
            with self._lock:
                current = self._trust is self._identity.trust and self._leaf.is_fresh(self._identity.now())
                return None if current else self._configure()
        except Exception:  # the boundary to grpc: what it calls must not raise
            log.warning("the certificate for peers could not be renewed; going on with the last", exc_info=True)
            return None

    def _configure(self) -> grpc.ServerCertificateConfiguration:
        trust, leaf = self._identity.trust, self._identity.issue_leaf()
        configuration = grpc.ssl_server_certificate_configuration(
            [(leaf.private_key, leaf.certificate)],
            root_certificates=b"".join(trust.anchors.values()),
        )
        self._trust, self._leaf = trust, leaf
        return configuration
