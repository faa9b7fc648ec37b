"""Who we are to an etcd: certificates and passwords in files, looked at before anything is sent."""

import ssl
import stat
from collections.abc import Iterable
from pathlib import Path

import grpc

from federation.etcd.auth import Login
from fedmarket.errors import BadInput
from zone_agent.address import Address


def tls_credentials(ca: Path, cert: Path | None, key: Path | None, advice: str) -> grpc.ChannelCredentials:
    """Return the credentials of a TLS client. gRPC takes any bytes and then fails each connection, so ssl looks.

    Raises BadInput, which ends with `advice`. Blocking.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(ca)
        if cert is not None:
            context.load_cert_chain(cert, key, password=lambda: "")  # or OpenSSL would ask the terminal for it
        return grpc.ssl_channel_credentials(
            ca.read_bytes(), key.read_bytes() if key else None, cert.read_bytes() if cert else None
        )
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(file) for file in (ca, cert, key) if file)
        raise BadInput(f"the certificates for etcd cannot be used ({files}: {error}): {advice}") from error


def password_in(file: Path) -> str:
    """Return the password that a file holds on its one line. Raises BadInput. Blocking."""
    try:
        text, mode = file.read_text(encoding="utf-8").rstrip("\n"), stat.S_IMODE(file.stat().st_mode)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadInput(
            f"the password file {file} cannot be read ({reason}): give one that holds a password on one line"
        ) from error
    if mode & 0o077:
        raise BadInput(f"the password file {file} can be read by others: run chmod 600 {file}")
    if not text or not text.isprintable():
        raise BadInput(f"the password file {file} does not hold a password on one line: write it anew")
    return text


def root_login(user: str | None, password_file: Path | None) -> Login | None:
    """Return the login that the options of a command give, if they do. Raises BadInput. Blocking."""
    if (user is None) != (password_file is None):
        raise BadInput("--root-user and --root-password-file go together: give both or neither")
    return Login(user, password_in(password_file)) if user and password_file else None


def refuse_clear_text(endpoints: Iterable[str], advice: str) -> None:
    """Refuse to send a password without TLS to another machine. Raises BadInput, which ends with `advice`."""
    for endpoint in endpoints:
        if not Address.parse(endpoint).is_loopback:
            raise BadInput(f"a password would go to {endpoint} as clear text: {advice}, so that TLS is used")
