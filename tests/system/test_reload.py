"""SIGHUP at an agent that runs: what is applied, what waits for a restart, and that nothing of a broken file holds."""

import signal

import pytest

from tests.support.certificates import write_certificate
from tests.support.proxy import Proxy
from tests.support.tls import answers, cli, pem_of, served, start_with_tls, tls_connection
from tests.support.zones import Zone, Zones, follows, free_port, holds, run, until


@pytest.fixture
def tls_zone(zones: Zones) -> Zone:
    """A zone whose client ports speak TLS at loopback, not started."""
    zone = zones.make(9, "nairobi")
    cert, key = write_certificate(zone.directory)
    for table in ("http", "grpc"):
        zone.set(table, tls_cert=str(cert), tls_key=str(key))
    return zone


def reload(zone: Zone) -> list[str]:
    """Send SIGHUP, and return what the agent logs of it, without its times."""
    before = len(zone.log.read_text())
    zone.send(signal.SIGHUP)

    def said() -> list[str]:
        lines = [line.partition(" reload: ") for line in zone.log.read_text()[before:].splitlines()]
        found = [text for _, logged, text in lines if logged]
        ended = any(text.startswith(("applied", "nothing to apply", "nothing was changed")) for text in found)
        return found if ended else []

    return until(said, "the agent says what came of the reload")


def test_a_new_secret_holds_at_once_and_the_old_one_no_more(zones: Zones) -> None:
    zone = zones.make(8, "quito")
    zone.start()
    old = zone.directory.with_name("old")
    old.write_text(zone.credentials.read_text())
    zone.credentials.write_text("oneadmin:another-secret\n")

    assert reload(zone) == ["applied [auth] credentials"]

    assert zone.ask("zone", "list")[0]["name"] == "quito"
    denied = run("zone", "list", variables=zone.variables | {"FEDMARKET_CREDENTIALS": str(old)})
    assert denied.status == 5
    zone.credentials.chmod(0o644)
    (refused,) = reload(zone)
    assert "can be read by others" in refused
    assert zone.ask("zone", "list")
    assert reload_is_quiet(zone)


def reload_is_quiet(zone: Zone) -> bool:
    zone.credentials.chmod(0o600)
    return reload(zone) == ["nothing to apply"]


def test_a_renewed_certificate_is_served_and_open_connections_stay(tls_zone: Zone) -> None:
    zone = tls_zone
    start_with_tls(zone)
    first = served(zone)
    connection = tls_connection(zone.http, zone.directory / "server.pem")
    assert answers(connection)

    write_certificate(zone.directory)  # the same files, with another certificate

    assert reload(zone) == ["applied [http] tls_cert, [http] tls_key, [grpc] tls_cert, [grpc] tls_key"]
    renewed = served(zone)
    assert renewed != first
    assert renewed == {pem_of(zone)}
    assert answers(connection)
    connection.close()
    assert cli(zone, "zone", "list").status == 0

    key = (zone.directory / "server.key").read_text()
    write_certificate(zone.directory)
    (zone.directory / "server.key").write_text(key)
    (refused,) = reload(zone)
    assert refused.startswith("nothing was changed: ")
    assert "see [http] in zone.toml" in refused
    assert served(zone) == renewed


def test_datastores_addresses_times_and_logs_are_taken_up(zones: Zones) -> None:
    zone = zones.make(8, "quito")
    zone.start()
    with zone.config.open("a") as settings:
        settings.write('\n[[datastore]]\nname = "fast"\npath = "fast"\n')
    zone.set("http", url="https://quito.example/market")
    zone.set("grpc", advertise="quito.example:7634")
    zone.set("peer", advertise="quito.example:7635")
    zone.set("timeouts", convert_seconds=7.0)
    zone.set("log", level="debug")

    (applied,) = reload(zone)

    assert applied == (
        "applied [[datastore]], [timeouts] convert_seconds, [http] url, [grpc] advertise, [peer] advertise, [log] level"
    )
    assert {store["name"] for store in zone.ask("datastore", "list")} == {"default", "fast"}
    seen = zone.ask("zone", "show")
    assert seen["http_endpoint"] == "https://quito.example/market"
    assert seen["grpc_endpoint"] == "quito.example:7634"
    assert seen["peer_endpoint"] == "quito.example:7635"
    until(lambda: " DEBUG " in zone.log.read_text(), "the agent says more")

    asked = run("agent", "reload", "--config", zone.config)
    assert (asked.status, f"process {zone.agent.pid}," in asked.out.decode()) == (0, True)
    until(lambda: "reload: nothing to apply" in zone.log.read_text(), "the command's reload is logged")
    checked = run("config", "check", zone.config)
    assert (checked.status, f"process {zone.agent.pid}" in checked.out.decode()) == (0, True), checked


def test_what_needs_a_restart_is_named_and_a_broken_file_changes_nothing(zones: Zones) -> None:
    zone = zones.make(8, "quito")
    zone.start()
    sound = zone.config.read_text()
    zone.set("grpc", listen=f"127.0.0.1:{free_port()}")
    zone.set("etcd", prefix="/other/")
    zone.follow(4, free_port(), "ed25519:" + "A" * 42 + "E=")

    assert reload(zone) == [
        "[etcd] prefix has changed and needs a restart",
        "[grpc] listen has changed and needs a restart",
        "[[peers]] of zone 4 has changed and needs a restart",
        "nothing to apply",
    ]

    zone.config.write_text(sound + "\n[http]\n")
    assert "is not TOML" in reload(zone)[0]
    zone.config.write_text(sound)
    zone.set("http", url="nonsense")
    zone.set("timeouts", beat_seconds=0)
    (line_of_url,) = [n for n, line in enumerate(zone.config.read_text().splitlines(), 1) if line.startswith("url = ")]
    said = until_both(zone)
    assert any(f"zone.toml, line {line_of_url}: [http] url is not a usable URL" in line for line in said)
    assert any("[timeouts] beat_seconds does not hold" in line for line in said)
    assert zone.ask("zone", "show")["http_endpoint"] == f"http://127.0.0.1:{zone.http}"
    assert zone.terminate() == 0


def until_both(zone: Zone) -> list[str]:
    before = len(zone.log.read_text())
    zone.send(signal.SIGHUP)

    def said() -> list[str]:
        lines = [line for line in zone.log.read_text()[before:].splitlines() if "nothing was changed" in line]
        return lines if len(lines) == 2 else []

    return until(said, "both problems are logged")


def test_a_peer_is_followed_at_its_new_address(zones: Zones) -> None:
    berlin, tokyo = zones.make(0, "berlin"), zones.make(100, "tokyo")
    with Proxy(tokyo.peer) as relay:
        berlin.follow(tokyo.id, relay.port, tokyo.key)
        tokyo.follow(berlin.id, berlin.peer, berlin.key)
        for zone in (berlin, tokyo):
            zone.start()
        until(lambda: follows(berlin), "berlin follows tokyo through the relay")
        berlin.config.write_text(berlin.config.read_text().replace(f":{relay.port}", f":{tokyo.peer}"))

        assert reload(berlin) == ["applied [[peers]] address of zone 100"]

    # The relay is gone, and with it every connection that was made through it.
    tokyo.ask("market", "create", "--name", "golden", "--driver", "http", "--scope", "federation")
    until(lambda: follows(berlin) and holds(berlin, tokyo), "berlin follows tokyo without the relay")
