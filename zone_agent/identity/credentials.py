"""The zone's administrator: one `user:secret`, in a file of OpenNebula's ONE_AUTH form."""

import base64
import binascii
import hmac
import stat
from pathlib import Path

from fedmarket.errors import ConfigError, Unauthenticated
from zone_agent.services.principal import ADMIN_GID, ADMIN_UID, Principal

SCHEME = "basic "


class Credentials:
    """Checks `authorization: Basic ...` against the administrator's credentials."""

    def __init__(self, zone: int, user: str, secret: str) -> None:
        self._admin = Principal(zone, ADMIN_UID, ADMIN_GID)
        self._expected = f"{user}:{secret}".encode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credentials) and hmac.compare_digest(self._expected, other._expected)

    __hash__ = None  # type: ignore[assignment]  # whom they let in can change

    @classmethod
    def load(cls, zone: int, path: Path) -> "Credentials":
        """Read the file. Raises ConfigError if it is missing, open to others, or holds no `user:secret`."""
        try:
            text = path.read_text().strip()
            mode = stat.S_IMODE(path.stat().st_mode)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the credentials file {path} cannot be read ({error}): see [auth] in zone.toml"
            ) from error
        if mode & 0o077:
            raise ConfigError(f"the credentials file {path} can be read by others: run chmod 600 {path}")
        user, colon, secret = text.partition(":")
        if not (user and colon and secret) or "\n" in text:
            raise ConfigError(f"the credentials file {path} does not hold one line user:secret: write it anew")
        return cls(zone, user, secret)

    def replace(self, other: "Credentials") -> None:
        """Let in whom `other` lets in, and nobody else, from the next call on."""
        self._expected = other._expected

    @property
    def admin(self) -> Principal:
        """The principal that these credentials are of."""
        return self._admin

    def authenticate(self, authorization: str) -> Principal:
        """Return who sends this header. Raises Unauthenticated, without saying what is wrong with it."""
        if authorization[: len(SCHEME)].lower() == SCHEME:
            try:
                given = base64.b64decode(authorization[len(SCHEME) :].strip(), validate=True)
            except (binascii.Error, ValueError):
                given = b""
            if hmac.compare_digest(given, self._expected):
                return self._admin
        raise Unauthenticated(
            "these credentials are not of a user of this zone: give the zone's file with FEDMARKET_CREDENTIALS"
        )
