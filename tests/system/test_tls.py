"""Client ports: TLS from end to end, addresses of both families, and what is refused without TLS."""

import http.client
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from tests.support.certificates import write_certificate
from tests.support.tls import answers, cli, start_with_tls, tls_connection
from tests.support.zones import Done, Zone, Zones, run, until


def ended(zone: Zone) -> str:
    """Run an agent that must end by itself, and return its sentence."""
    done = run("agent", "run", "--config", zone.config, "--log-level", "error")
    assert done.status == 2, done
    return done.sentence


def test_both_client_ports_speak_tls_from_command_to_ranges(zones: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = zones.make(9, "nairobi")
    cert, key = write_certificate(zone.directory)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))  # whom the agent trusts when it fetches
    for table in ("http", "grpc"):
        zone.set(table, tls_cert=str(cert), tls_key=str(key))
    start_with_tls(zone)

    content = bytes(range(256)) * 4096
    disk = zone.directory / "disk.raw"
    disk.write_bytes(content)
    steps = (
        ("market", "create", "--name", "golden", "--driver", "http", "--scope", "federation"),
        ("image", "import", disk, "--name", "disk", "--datastore", "default"),
        ("app", "create", "--image", "disk", "--market", "golden", "--name", "disk"),
        ("app", "download", "disk", zone.directory / "back.raw"),
        ("app", "export", "disk", "--datastore", "default", "--name", "copy"),
    )
    for step in steps:
        done = cli(zone, *step)
        assert done.status == 0, done
    assert (zone.directory / "back.raw").read_bytes() == content

    with closing(tls_connection(zone.http, cert)) as connection:
        assert answers(connection)
    # No system authority has signed it: without --ca-file nothing is said to the agent.
    untrusting = run(
        "zone", "list", variables=zone.variables | {"FEDMARKET_ENDPOINT": f"https://127.0.0.1:{zone.grpc}"}
    )
    assert untrusting.status == 6
    with closing(http.client.HTTPConnection("127.0.0.1", zone.http, timeout=30)) as plain:
        plain.request("GET", "/healthz")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            plain.getresponse()


def test_ipv6_loopback_needs_no_tls_and_every_address_of_the_machine_does(zones: Zones) -> None:
    zone = zones.make(9, "nairobi")
    zone.set("http", listen=f"[::1]:{zone.http}")
    zone.set("grpc", listen=f"[::1]:{zone.grpc}")
    zone.spawn()
    endpoint = {"FEDMARKET_ENDPOINT": f"[::1]:{zone.grpc}"}

    def shown() -> Done | None:
        done = run("zone", "show", "--json", variables=zone.variables | endpoint)
        return done if done.status == 0 else None

    done = until(shown, "the agent serves at [::1]")
    assert f"http://[::1]:{zone.http}".encode() in done.out
    with closing(http.client.HTTPConnection("::1", zone.http, timeout=30)) as web:
        assert answers(web)
    assert zone.terminate() == 0

    for table, address in (("http", f"[::]:{zone.http}"), ("grpc", f"0.0.0.0:{zone.grpc}")):
        sound = zone.config.read_text()
        zone.set(table, listen=address)
        sentence = ended(zone)
        assert f"[{table}] listen is {address}, which other machines can reach" in sentence
        assert "plaintext = true" in sentence
        zone.config.write_text(sound)


def test_plaintext_beyond_loopback_is_served_where_it_is_said_openly(zones: Zones) -> None:
    zone = zones.make(9, "nairobi")
    for table, port in (("http", zone.http), ("grpc", zone.grpc)):
        zone.set(table, listen=f"0.0.0.0:{port}", plaintext=True)
    zone.start()

    assert urlsplit(zone.ask("zone", "show")["http_endpoint"]).scheme == "http"
