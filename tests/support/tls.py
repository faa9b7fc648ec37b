"""A zone whose client ports speak TLS, and who connects to it."""

import http.client
import ssl
from pathlib import Path

from tests.support.zones import Done, Zone, run, until


def start_with_tls(zone: Zone) -> None:
    """Start a zone whose [grpc] speaks TLS with `server.pem`, and wait until it serves."""
    zone.spawn()
    until(lambda: zone.agent.poll() is not None or cli(zone, "zone", "list").status == 0, f"{zone.name} serves TLS")
    assert zone.agent.poll() is None, zone.log.read_text()[-3000:]


def cli(zone: Zone, *arguments: str | Path) -> Done:
    """Run a command at the zone, trusting the certificate that its files hold now."""
    ca = zone.directory / "server.pem"
    endpoint = {"FEDMARKET_ENDPOINT": f"https://127.0.0.1:{zone.grpc}"}
    return run(*arguments, "--ca-file", ca, variables=zone.variables | endpoint)


def served(zone: Zone) -> set[str]:
    """Return the certificates that both client ports show to who connects now."""
    return {ssl.get_server_certificate(("127.0.0.1", port), timeout=30).strip() for port in (zone.http, zone.grpc)}


def pem_of(zone: Zone) -> str:
    """Return the certificate that the zone's file holds."""
    return (zone.directory / "server.pem").read_text().strip()


def tls_connection(port: int, ca: Path, host: str = "127.0.0.1") -> http.client.HTTPSConnection:
    """Return a connection that lasts over requests."""
    return http.client.HTTPSConnection(host, port, context=ssl.create_default_context(cafile=ca), timeout=30)


def answers(connection: http.client.HTTPConnection) -> bool:
    """Say whether a request is answered on this very connection."""
    before = connection.sock
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    response.read()
    return response.status == 200 and before in (None, connection.sock)
