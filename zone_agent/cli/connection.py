"""Which agent the command talks to, and as whom."""

import base64
import math
from dataclasses import dataclass
from pathlib import Path

from fedmarket.errors import BadInput
from zone_agent.address import Address

DEFAULT_ENDPOINT = "127.0.0.1:7634"
DEFAULT_TIMEOUT = 30.0
ENDPOINT_VARIABLE = "FEDMARKET_ENDPOINT"
CREDENTIALS_VARIABLE = "FEDMARKET_CREDENTIALS"
TIMEOUT_VARIABLE = "FEDMARKET_TIMEOUT"
CA_FILE_VARIABLE = "FEDMARKET_CA_FILE"

TLS_SCHEMES = ("https", "tls")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """An agent's client port and how to speak to it."""

    address: Address
    tls: bool
    authorization: str
    """Value of the `authorization` metadata. A secret."""
    timeout: float
    """Seconds to wait for an answer; of a stream, for its next sign of life."""
    ca_file: Path | None

    def __repr__(self) -> str:
        return f"Connection({self.address})"


def connection(
    endpoint: str | None, credentials: Path | None, timeout: float | None, ca_file: Path | None
) -> Connection:
    """Check what was given, take the default for what was not, and read the credentials. Raises BadInput."""
    address, tls = parse_endpoint(endpoint or DEFAULT_ENDPOINT)
    if ca_file is not None and not tls:
        raise BadInput(f"--ca-file is for TLS, but the endpoint {address} is plaintext: write https://{address}")
    if timeout is not None and not 0 < timeout < math.inf:
        raise BadInput(f"--timeout {timeout:g} is not a time to wait: give seconds, for instance 30")
    return Connection(
        address=address,
        tls=tls,
        authorization=f"Basic {base64.b64encode(read_credentials(credentials)).decode()}",
        timeout=DEFAULT_TIMEOUT if timeout is None else timeout,
        ca_file=ca_file,
    )


def parse_endpoint(text: str) -> tuple[Address, bool]:
    """Read `host:port`, plaintext, or `https://host:port` or `tls://host:port`; the flag says TLS. Raises BadInput."""
    scheme, separator, rest = text.rpartition("://")
    if separator and scheme.lower() not in TLS_SCHEMES:
        raise BadInput(
            f"the endpoint {text!r} is of an unknown kind: give host:port for plaintext, or https://host:port for TLS"
        )
    try:
        address = Address.parse(rest.rstrip("/"))
    except BadInput as error:
        raise BadInput(f"the endpoint {error.message}") from error
    return address, bool(separator)


def read_credentials(file: Path | None) -> bytes:
    """Return the `user:secret` that the file holds. Blocking. Raises BadInput, which never shows the content."""
    if file is None:
        raise BadInput(
            f"no credentials: give --credentials FILE, or set {CREDENTIALS_VARIABLE}, to a file that holds user:secret "
            "(`fedmarket agent init` writes one named `credentials`)"
        )
    try:
        held = file.read_bytes().strip()
    except OSError as error:
        raise BadInput(
            f"the credentials file {file} cannot be read ({error.strerror}): give one that holds user:secret"
        ) from error
    if not held:
        raise BadInput(f"the credentials file {file} is empty: write user:secret into it")
    user, separator, secret = held.partition(b":")
    if not (user and separator and secret) or len(held.splitlines()) != 1:
        raise BadInput(f"the credentials file {file} does not hold user:secret on one line: correct it")
    return held
