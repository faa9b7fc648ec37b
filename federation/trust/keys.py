"""The key of a zone: the private half in a file of its own, the public half as peers pin it."""

import base64
import binascii
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedmarket.errors import AlreadyExists, BadInput, ConfigError

PUBLIC_KEY_BYTES = 32
KEY_ID_BYTES = 16
DERIVED_BYTES = 32
TEXT_PREFIX = "ed25519:"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key (RFC 8032): what peers pin of a zone."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != PUBLIC_KEY_BYTES:
            raise BadInput(f"a zone's public key has {PUBLIC_KEY_BYTES} bytes, not {len(self.raw)}: copy it whole")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form, `ed25519:` and the base64 of the 32 bytes.

        Raises BadInput for anything else, also for a second spelling of the same bytes.
        """
        try:
            key = cls(base64.b64decode(text.removeprefix(TEXT_PREFIX), validate=True))
        except (ValueError, binascii.Error) as error:
            raise _not_a_public_key() from error
        if str(key) != text:
            raise _not_a_public_key()
        return key

    def __str__(self) -> str:
        return TEXT_PREFIX + base64.b64encode(self.raw).decode()

    @property
    def key_id(self) -> bytes:
        """Short name of the key: the first 16 bytes of the SHA-256 of its 32 bytes (head.proto, SignedHead.key_id)."""
        return hashlib.sha256(self.raw).digest()[:KEY_ID_BYTES]

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Tell whether `signature` is this key's over `message`."""
        try:
            self.to_crypto().verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def to_crypto(self) -> Ed25519PublicKey:
        """Return the key as the cryptography library has it."""
        return Ed25519PublicKey.from_public_bytes(self.raw)


def _not_a_public_key() -> BadInput:
    # Without what was given: it may be a private key, pasted by mistake.
    return BadInput(
        f"what is given as a zone's public key is none: give {TEXT_PREFIX} followed by 44 characters of base64"
    )


class ZoneKey:
    """The private key of a zone. It signs heads and, as a CA, the certificates of the zone's agents."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = PublicKey(private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"ZoneKey({self.public.key_id.hex()})"

    @classmethod
    def generate(cls) -> Self:
        """Make a new random key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key that `save` wrote. Blocking.

        Raises ConfigError if the file cannot be read, is no Ed25519 key in PEM, or is open to group or others.
        """
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                pem = file.read()
        except OSError as error:
            raise ConfigError(
                f"the zone key {path} cannot be read ({error.strerror}): restore it, or give the path of the right file"
            ) from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(
                f"the zone key {path} is open to group or others (mode {mode:04o}): run `chmod 600 {path}`"
            )
        try:
            private = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _not_a_zone_key(path) from error
        if not isinstance(private, Ed25519PrivateKey):
            raise _not_a_zone_key(path)
        return cls(private)

    def save(self, path: Path) -> None:
        """Write the key to a new file that only its owner can read, durably. Blocking.

        Raises AlreadyExists rather than overwrite a file, ConfigError if it cannot be written.
        """
        pem = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(pem)
                    file.flush()
                    os.fsync(fd)
            except OSError:
                path.unlink(missing_ok=True)
                raise
            _sync_directory(path.parent)
        except FileExistsError as error:
            raise AlreadyExists(
                f"{path} exists and a zone key is never overwritten: keep using it, or move it away first"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"the zone key cannot be written to {path} ({error.strerror}): "
                "make its directory writable, or choose another"
            ) from error

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the Ed25519 signature over `message`.

        A message begins with a prefix of its own, such as `fedmarket/head/1` 0x00, so that no signature made for one
        purpose serves another; certificates, which begin with 0x30, are apart from all of them.
        """
        return self._private.sign(message)

    def derive(self, info: bytes) -> bytes:
        """Return a secret of 32 bytes for the purpose that `info` names: HKDF-SHA256 (RFC 5869) over the private key.

        It is the same at every start and says nothing about the key or about other purposes.
        """
        return HKDF(SHA256(), DERIVED_BYTES, salt=None, info=info).derive(self._private.private_bytes_raw())

    def to_crypto(self) -> Ed25519PrivateKey:
        """Return the key as the cryptography library has it, to sign certificates with."""
        return self._private


def _not_a_zone_key(path: Path) -> ConfigError:
    return ConfigError(f"the zone key {path} is not an unencrypted Ed25519 key in PEM: restore it from a backup")


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
