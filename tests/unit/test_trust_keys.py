import base64
import hashlib
import hmac
import resource
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from federation.trust import PublicKey, ZoneKey
from fedmarket.errors import AlreadyExists, BadInput, ConfigError

RFC_8032_SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC_8032_PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
RFC_8032_SIGNATURE = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
    "d25bf5f0595bbe24655141438e7a100b"
)


@pytest.fixture
def rfc_key() -> ZoneKey:
    return ZoneKey(Ed25519PrivateKey.from_private_bytes(RFC_8032_SECRET))


def test_signs_and_verifies_the_first_vector_of_rfc_8032(rfc_key: ZoneKey) -> None:
    assert rfc_key.public == PublicKey(RFC_8032_PUBLIC)
    assert rfc_key.sign(b"") == RFC_8032_SIGNATURE
    assert rfc_key.public.verify(RFC_8032_SIGNATURE, b"")


def test_a_signature_holds_for_its_key_and_message_only() -> None:
    key, other = ZoneKey.generate(), ZoneKey.generate()
    signature = key.sign(b"message")
    assert key.public.verify(signature, b"message")
    assert not key.public.verify(signature, b"another message")
    assert not other.public.verify(signature, b"message")
    assert not key.public.verify(signature[:-1], b"message")
    assert not key.public.verify(b"", b"message")


def test_key_id_is_the_first_half_of_the_digest_of_the_raw_key() -> None:
    assert PublicKey(RFC_8032_PUBLIC).key_id == hashlib.sha256(RFC_8032_PUBLIC).digest()[:16]


def test_text_form_round_trips() -> None:
    text = str(PublicKey(RFC_8032_PUBLIC))
    assert text == "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    assert PublicKey.parse(text) == PublicKey(RFC_8032_PUBLIC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519:",
        "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        "rsa:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURp=",  # the same bytes, spelled otherwise
        "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        " ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        "ed25519:" + base64.b64encode(bytes(31)).decode(),
        "ed25519:" + base64.b64encode(bytes(33)).decode(),
        "ed25519:größe",
    ],
)
def test_refuses_other_text(text: str) -> None:
    with pytest.raises(BadInput, match="public key"):
        PublicKey.parse(text)


def test_does_not_repeat_what_may_be_a_private_key(tmp_path: Path) -> None:
    ZoneKey.generate().save(tmp_path / "zone.key")
    pem = (tmp_path / "zone.key").read_text()
    with pytest.raises(BadInput) as caught:
        PublicKey.parse(pem)
    assert pem.splitlines()[1] not in caught.value.message


def test_refuses_a_public_key_of_another_length() -> None:
    with pytest.raises(BadInput, match="31"):
        PublicKey(bytes(31))


def test_derived_secrets_are_stable_and_differ_by_purpose_and_key(rfc_key: ZoneKey) -> None:
    secret = rfc_key.derive(b"fedmarket/url/1")
    extracted = hmac.digest(bytes(32), RFC_8032_SECRET, "sha256")  # RFC 5869, by hand
    assert secret == hmac.digest(extracted, b"fedmarket/url/1" + b"\x01", "sha256")
    assert len({secret, rfc_key.derive(b"another"), ZoneKey.generate().derive(b"fedmarket/url/1")}) == 3


def test_a_saved_key_loads_as_the_same_key(tmp_path: Path) -> None:
    key, path = ZoneKey.generate(), tmp_path / "zone.key"
    key.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
    loaded = ZoneKey.load(path)
    assert loaded.public == key.public
    assert key.public.verify(loaded.sign(b"message"), b"message")


def test_save_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "zone.key"
    ZoneKey.generate().save(path)
    before = path.read_bytes()
    with pytest.raises(AlreadyExists, match="never overwritten"):
        ZoneKey.generate().save(path)
    assert path.read_bytes() == before


def test_save_says_why_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        ZoneKey.generate().save(tmp_path / "missing" / "zone.key")


def test_a_key_that_cannot_be_written_whole_leaves_no_file(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(ConfigError, match="File too large"):
            ZoneKey.generate().save(tmp_path / "zone.key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_refuses_a_key_that_others_can_use(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "zone.key"
    ZoneKey.generate().save(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        ZoneKey.load(path)


def test_load_says_why_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        ZoneKey.load(tmp_path / "zone.key")
    with pytest.raises(ConfigError, match="Is a directory"):
        ZoneKey.load(tmp_path)


def pem_of(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, encryption: KeySerializationEncryption) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        pem_of(Ed25519PrivateKey.generate(), NoEncryption())[:60],
        pem_of(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"password")),
        pem_of(ec.generate_private_key(ec.SECP256R1()), NoEncryption()),
    ],
    ids=["empty", "garbage", "cut short", "encrypted", "P-256"],
)
def test_refuses_a_file_that_holds_no_zone_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "zone.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not an unencrypted Ed25519 key"):
        ZoneKey.load(path)


def test_the_private_key_is_not_shown(rfc_key: ZoneKey) -> None:
    assert repr(rfc_key) == f"ZoneKey({rfc_key.public.key_id.hex()})"
