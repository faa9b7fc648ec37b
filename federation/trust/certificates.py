"""X.509 from a zone's one key: short-lived leaves that it issues, and the anchor that stands for it at its peers.

Nobody exchanges certificates. A peer knows the pinned public key alone and makes the CA certificate from it, because
the names that a path needs follow from zone id and key, and the signature of a trust anchor is not part of path
validation (RFC 5280, section 6.1).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.trust.keys import PublicKey, ZoneKey
from fedmarket.errors import Denied

_ZONE_URI = re.compile(r"fedmarket://zone/(0|[1-9][0-9]{0,3})")
_ANCHOR_BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
_ANCHOR_END = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""RFC 5280, section 4.1.2.5: the date of what does not expire. A pinned key is valid for as long as it is pinned."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate of an agent with its private key, both in PEM."""

    certificate: bytes
    private_key: bytes = field(repr=False)
    not_before: datetime
    renew_at: datetime
    """Half of its life is over: present another one from here on."""

    def is_fresh(self, now: datetime) -> bool:
        """Tell whether it may still be presented; not so either if the clock was set back behind its begin."""
        return self.not_before <= now < self.renew_at


def dns_name(zone_id: int) -> str:
    """Return the host name in the certificates of a zone's agents, which TLS compares. It is never resolved."""
    return f"zone-{zone_id}.fedmarket"


def issue_leaf(
    zone_key: ZoneKey,
    zone_id: int,
    now: datetime,
    lifetime: timedelta,
    clock_skew: timedelta = timedelta(0),
) -> Leaf:
    """Make a P-256 key (grpcio knows no Ed25519 TLS keys) and a certificate for it, for both ends of a connection.

    It is valid from `clock_skew` before `now`, for peers whose clocks are behind, until `lifetime` after it.
    """
    private = ec.generate_private_key(ec.SECP256R1())
    not_before = now - clock_skew
    certificate = (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .issuer_name(_anchor_name(zone_key.public, zone_id))
        .subject_name(_leaf_name(zone_key.public))
        .public_key(private.public_key())
        .not_valid_before(not_before)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(_alternative_names(zone_id)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(zone_key.public.key_id, None, None), critical=False)
        .sign(zone_key.to_crypto(), algorithm=None)
    )
    return Leaf(
        certificate=certificate.public_bytes(Encoding.PEM),
        private_key=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        not_before=not_before,
        renew_at=now + lifetime / 2,
    )


def anchor(public_key: PublicKey, zone_id: int) -> bytes:
    """Make, from the pinned key alone, the CA certificate (PEM) under which TLS accepts that zone's leaves.

    Name constraints keep the zone's key from vouching for another zone's host name. For the URI they cannot: such a
    constraint is about its host part only (RFC 5280, section 4.2.1.10). `zone_of_leaf` is what checks the URI.
    """
    name = _anchor_name(public_key, zone_id)
    return (
        x509.CertificateBuilder()
        .serial_number(1)
        .issuer_name(name)
        .subject_name(name)
        .public_key(public_key.to_crypto())
        .not_valid_before(_ANCHOR_BEGIN)
        .not_valid_after(_ANCHOR_END)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.NameConstraints([x509.DNSName(dns_name(zone_id))], None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(public_key.key_id), critical=False)
        # The private key is not here, and what stands in the signature of an anchor is never checked.
        .sign(Ed25519PrivateKey.generate(), algorithm=None)
        .public_bytes(Encoding.PEM)
    )


def zone_of_leaf(pem: bytes, pinned: Mapping[int, PublicKey], now: datetime) -> int:
    """Return the id of the zone whose pinned key issued the leaf, which must be the very zone that the leaf names.

    TLS alone says only that one of the pinned keys issued it. Raises Denied for everything else.
    """
    try:
        leaf = x509.load_pem_x509_certificate(pem)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        subject = leaf.subject
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise Denied(
            "the certificate cannot be read or has no alternative names: connect with one that a zone key issued"
        ) from error
    zone_id = _zone_named_in(names)
    key = pinned.get(zone_id)
    if key is None:
        raise Denied(f"the certificate names zone {zone_id}, which is no peer of this zone: pin its key here first")
    if not key.verify(leaf.signature, leaf.tbs_certificate_bytes):
        raise Denied(
            f"the certificate names zone {zone_id} but another key than the one pinned for it here issued it: "
            "compare the pinned key with that zone's own"
        )
    if subject != _leaf_name(key) or set(names) != set(_alternative_names(zone_id)):
        raise Denied(
            f"the certificate of zone {zone_id} has other names than fedmarket gives: "
            "connect with one that an agent of that zone issued for itself"
        )
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise Denied(
            f"the certificate of zone {zone_id} is valid from {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} "
            f"to {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ} and it is {now:%Y-%m-%dT%H:%M:%SZ} here: "
            "connect anew, or set the clocks"
        )
    return zone_id


def _zone_named_in(names: x509.SubjectAlternativeName) -> int:
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    match = _ZONE_URI.fullmatch(uris[0]) if len(uris) == 1 else None
    if match is None:
        raise Denied("the certificate does not name exactly one zone: connect with one that a zone key issued")
    return int(match[1])


def _alternative_names(zone_id: int) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(f"fedmarket://zone/{zone_id}"), x509.DNSName(dns_name(zone_id))]


def _anchor_name(key: PublicKey, zone_id: int) -> x509.Name:
    # With the key id in it, so that an old and a new key of a zone are two issuers, never one with two keys.
    return _common_name(f"fedmarket zone {zone_id} {key.key_id.hex()}")


def _leaf_name(key: PublicKey) -> x509.Name:
    return _common_name(key.key_id.hex())


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
