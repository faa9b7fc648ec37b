"""trust: the one Ed25519 key that peers pin of a zone, and the mutual TLS between zones that is built from it."""

from federation.trust.certificates import Leaf, anchor, dns_name, issue_leaf, zone_of_leaf
from federation.trust.keys import PublicKey, ZoneKey
from federation.trust.tls import Identity, PeerCredentials, TlsSettings

__all__ = [
    "Identity",
    "Leaf",
    "PeerCredentials",
    "PublicKey",
    "TlsSettings",
    "ZoneKey",
    "anchor",
    "dns_name",
    "issue_leaf",
    "zone_of_leaf",
]
