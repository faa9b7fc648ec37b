from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.trust import ZoneKey, anchor, issue_leaf, zone_of_leaf
from fedmarket.errors import Denied

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(hours=24)
SKEW = timedelta(minutes=5)
BERLIN, TOKYO, LIMA = 0, 100, 2146
BERLIN_KEY, TOKYO_KEY, LIMA_KEY = ZoneKey.generate(), ZoneKey.generate(), ZoneKey.generate()
PINNED = {BERLIN: BERLIN_KEY.public, TOKYO: TOKYO_KEY.public, LIMA: LIMA_KEY.public}


def uri(zone_id: int) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(f"fedmarket://zone/{zone_id}")


def dns(zone_id: int) -> x509.GeneralName:
    return x509.DNSName(f"zone-{zone_id}.fedmarket")


def forge(
    key: ZoneKey,
    names: Sequence[x509.GeneralName] | None,
    common_name: str | None = None,
) -> bytes:
    """What a zone's key can sign if its owner lies: Tokyo's leaf, with other names."""
    honest = x509.load_pem_x509_certificate(issue_leaf(key, TOKYO, NOW, DAY, SKEW).certificate)
    builder = (
        x509.CertificateBuilder()
        .serial_number(honest.serial_number)
        .issuer_name(honest.issuer)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name or key.public.key_id.hex())]))
        .public_key(honest.public_key())
        .not_valid_before(honest.not_valid_before_utc)
        .not_valid_after(honest.not_valid_after_utc)
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key.to_crypto(), algorithm=None).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(("zone_id", "key"), [(BERLIN, BERLIN_KEY), (TOKYO, TOKYO_KEY), (LIMA, LIMA_KEY)])
def test_a_leaf_is_of_the_zone_whose_pinned_key_issued_it(zone_id: int, key: ZoneKey) -> None:
    assert zone_of_leaf(issue_leaf(key, zone_id, NOW, DAY, SKEW).certificate, PINNED, NOW) == zone_id


def test_a_leaf_says_what_design_and_tls_ask_of_it() -> None:
    leaf = issue_leaf(TOKYO_KEY, TOKYO, NOW, DAY, SKEW)
    certificate = x509.load_pem_x509_certificate(leaf.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    issuer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert list(names) == [uri(TOKYO), dns(TOKYO)]
    assert set(usage) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert certificate.subject.rfc4514_string() == f"CN={TOKYO_KEY.public.key_id.hex()}"
    assert issuer.key_identifier == TOKYO_KEY.public.key_id
    assert certificate.not_valid_before_utc == NOW - SKEW
    assert certificate.not_valid_after_utc == NOW + DAY
    assert load_pem_private_key(leaf.private_key, None).public_key() == certificate.public_key()
    assert b"PRIVATE" not in repr(leaf).encode()


def test_every_leaf_has_a_key_of_its_own() -> None:
    leaves = [issue_leaf(TOKYO_KEY, TOKYO, NOW, DAY) for _ in range(2)]
    assert leaves[0].private_key != leaves[1].private_key


def test_a_leaf_is_fresh_for_half_of_its_life() -> None:
    leaf = issue_leaf(TOKYO_KEY, TOKYO, NOW, DAY, SKEW)
    assert leaf.is_fresh(NOW)
    assert leaf.is_fresh(NOW + DAY / 2 - timedelta(seconds=1))
    assert not leaf.is_fresh(NOW + DAY / 2)
    assert not leaf.is_fresh(NOW - SKEW - timedelta(seconds=1))


def test_an_anchor_made_from_the_public_key_is_the_issuer_of_the_leaves() -> None:
    made = x509.load_pem_x509_certificate(anchor(TOKYO_KEY.public, TOKYO))
    leaf = x509.load_pem_x509_certificate(issue_leaf(TOKYO_KEY, TOKYO, NOW, DAY).certificate)
    leaf.verify_directly_issued_by(made)
    constraints = made.extensions.get_extension_for_class(x509.NameConstraints).value
    basic = made.extensions.get_extension_for_class(x509.BasicConstraints).value
    identifier = made.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert constraints.permitted_subtrees == [dns(TOKYO)]
    assert (basic.ca, basic.path_length) == (True, 0)
    assert identifier.digest == TOKYO_KEY.public.key_id


def test_two_keys_of_one_zone_are_two_issuers() -> None:
    old, new = (x509.load_pem_x509_certificate(anchor(ZoneKey.generate().public, TOKYO)) for _ in range(2))
    assert old.subject != new.subject


def test_refuses_a_leaf_that_another_key_issued() -> None:
    impostor = issue_leaf(ZoneKey.generate(), TOKYO, NOW, DAY).certificate
    with pytest.raises(Denied, match="names zone 100 but another key"):
        zone_of_leaf(impostor, PINNED, NOW)


def test_refuses_a_pinned_zone_that_names_another_pinned_zone() -> None:
    with pytest.raises(Denied, match="names zone 100 but another key"):
        zone_of_leaf(issue_leaf(BERLIN_KEY, TOKYO, NOW, DAY).certificate, PINNED, NOW)


def test_refuses_a_zone_that_is_no_peer() -> None:
    with pytest.raises(Denied, match="zone 7, which is no peer"):
        zone_of_leaf(issue_leaf(TOKYO_KEY, 7, NOW, DAY).certificate, PINNED, NOW)


@pytest.mark.parametrize("now", [NOW - SKEW - timedelta(seconds=1), NOW + DAY + timedelta(seconds=1)])
def test_refuses_a_leaf_outside_its_time(now: datetime) -> None:
    leaf = issue_leaf(TOKYO_KEY, TOKYO, NOW, DAY, SKEW)
    with pytest.raises(Denied, match=r"valid from 2026-05-01T11:55:00Z to 2026-05-02T12:00:00Z"):
        zone_of_leaf(leaf.certificate, PINNED, now)


@pytest.mark.parametrize("now", [NOW - SKEW, NOW + DAY])
def test_accepts_a_leaf_at_both_ends_of_its_time(now: datetime) -> None:
    assert zone_of_leaf(issue_leaf(TOKYO_KEY, TOKYO, NOW, DAY, SKEW).certificate, PINNED, now) == TOKYO


@pytest.mark.parametrize(
    "names",
    [
        [uri(TOKYO), uri(BERLIN), dns(TOKYO)],
        [uri(TOKYO), uri(TOKYO), dns(TOKYO)],
        [dns(TOKYO)],
        [x509.UniformResourceIdentifier("fedmarket://zone/0100"), dns(TOKYO)],
        [x509.UniformResourceIdentifier("fedmarket://zone/-1"), dns(TOKYO)],
        [x509.UniformResourceIdentifier("fedmarket://zone/100\n"), dns(TOKYO)],
        [x509.UniformResourceIdentifier("fedmarket://zone/100/0"), dns(TOKYO)],
        [x509.UniformResourceIdentifier("https://zone/100"), dns(TOKYO)],
    ],
)
def test_refuses_a_leaf_that_does_not_name_exactly_one_zone(names: list[x509.GeneralName]) -> None:
    with pytest.raises(Denied, match="exactly one zone"):
        zone_of_leaf(forge(TOKYO_KEY, names), PINNED, NOW)


@pytest.mark.parametrize(
    "names",
    [
        [uri(TOKYO)],
        [uri(TOKYO), dns(BERLIN)],
        [uri(TOKYO), dns(TOKYO), dns(BERLIN)],
        [uri(TOKYO), dns(TOKYO), x509.RFC822Name("admin@example.org")],
    ],
)
def test_refuses_a_leaf_with_other_names_beside_its_zone(names: list[x509.GeneralName]) -> None:
    with pytest.raises(Denied, match="other names"):
        zone_of_leaf(forge(TOKYO_KEY, names), PINNED, NOW)


def test_refuses_a_leaf_whose_common_name_is_not_the_key_id() -> None:
    names = [uri(TOKYO), dns(TOKYO)]
    assert zone_of_leaf(forge(TOKYO_KEY, names), PINNED, NOW) == TOKYO
    with pytest.raises(Denied, match="other names"):
        zone_of_leaf(forge(TOKYO_KEY, names, BERLIN_KEY.public.key_id.hex()), PINNED, NOW)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"garbage",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        issue_leaf(TOKYO_KEY, TOKYO, NOW, DAY).private_key,
        issue_leaf(TOKYO_KEY, TOKYO, NOW, DAY).certificate[:300],
        forge(TOKYO_KEY, None),
    ],
    ids=["empty", "garbage", "not DER", "a key", "cut short", "without names"],
)
def test_refuses_what_is_no_certificate_with_names(pem: bytes) -> None:
    with pytest.raises(Denied, match="cannot be read"):
        zone_of_leaf(pem, PINNED, NOW)
