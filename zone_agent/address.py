"""`host:port`, as it is written in zone.toml and on the command line."""

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Self

from fedmarket.errors import BadInput

MAX_PORT = 65535

_FORM = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<host>[A-Za-z0-9_.-]+)):(?P<port>[0-9]{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a TCP port; port 0 in an address to listen at means any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host:port` or `[ipv6]:port`. Raises BadInput."""
        match = _FORM.fullmatch(text)
        if match is None or int(match["port"]) > MAX_PORT:
            raise BadInput(
                f"{text[:80]!r} is not an address: give host:port, for instance 127.0.0.1:7634 or [::1]:7634"
            )
        if match["six"] is not None:
            try:
                ipaddress.IPv6Address(match["six"])
            except ValueError as error:
                raise BadInput(
                    f"{text[:80]!r} is not an address: what stands in the brackets is no IPv6 address"
                ) from error
        return cls(match["six"] or match["host"], int(match["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A host name other than `localhost` counts as not."""
        ip = self._ip()
        return self.host == "localhost" if ip is None else ip.is_loopback

    @property
    def is_wildcard(self) -> bool:
        """Whether it means every address of this machine (0.0.0.0, ::), and so cannot be dialled."""
        ip = self._ip()
        return ip is not None and ip.is_unspecified

    def dialable(self) -> "Address":
        """Return the address that others can be told: this host's name in place of a wildcard."""
        return Address(socket.gethostname(), self.port) if self.is_wildcard else self

    def with_port(self, port: int) -> "Address":
        """Return the same host with the port that was really bound."""
        return Address(self.host, port)

    def _ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None
