"""An agent that cannot start: one clear sentence, the documented status, in bounded time, and nothing half done."""

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo import processes
from federation.trust import ZoneKey
from tests.support.etcd import EtcdServer
from tests.support.zones import Done, Zone, Zones, free_port, run

BAD_INPUT, NO_ANSWER = 2, 6


@pytest.fixture
def zone(zones: Zones) -> Zone:
    """A zone that was made and never ran."""
    return zones.make(3, "oslo")


def start(zone: Zone) -> Done:
    """Run its agent, which must end by itself, and leave no process."""
    done = run("agent", "run", "--config", zone.config, "--log-level", "error")
    assert done.out == b""
    assert not processes.etcds(zone.directory.parent)
    return done


def fails(zone: Zone, status: int, *about: str) -> str:
    done = start(zone)
    assert done.status == status, done
    for part in about:
        assert part in done.sentence
    return done.sentence


def content(directory: Path) -> dict[str, bytes]:
    """Return what a directory holds, but for the etcd's own files."""
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in directory.rglob("*")
        if file.is_file() and "etcd" not in file.relative_to(directory).parts[:1]
    }


# -- settings


def peer(zone_id: int, key: str | None = None) -> str:
    key = key or str(ZoneKey.generate().public)
    return f'\n[[peers]]\nid = {zone_id}\naddress = "127.0.0.1:1"\nkey = "{key}"\n'


ONE_KEY = str(ZoneKey.generate().public)

SETTINGS: dict[str, tuple[Callable[[str], str], tuple[str, ...]]] = {
    "an unknown key": (lambda text: text.replace("[grpc]", "[grpc]\nlisen = 1"), ("[grpc] lisen", "`listen`")),
    "an unknown table": (lambda text: text + "\n[gprc]\nlisten = 1\n", ("[gprc]", "`grpc`")),
    "a key before all tables": (lambda text: "zone_id = 1\n" + text, ("zone_id", "line 1")),
    "a text for a number": (lambda text: text.replace("id = 3", 'id = "3"'), ("[zone] id", "whole number")),
    "a number for a text": (lambda text: text.replace('name = "oslo"', "name = 1"), ("[zone] name", "text")),
    "an id out of range": (lambda text: text.replace("id = 3", "id = 2147"), ("[zone] id", "2146")),
    "no id": (lambda text: text.replace("\nid = 3", "\n"), ("[zone] id", "missing")),
    "a name with a slash": (lambda text: text.replace('"oslo"', '"os/lo"'), ("[zone] name", "/")),
    "its own id as a peer": (lambda text: text + peer(3), ("[peers] id", "this zone's own id")),
    "two peers of one id": (lambda text: text + peer(4) + peer(4), ("[peers] id", "another peer")),
    "two peers of one key": (lambda text: text + peer(4, ONE_KEY) + peer(5, ONE_KEY), ("[peers] key", "own key")),
    "a key that is none": (lambda text: text + peer(4, "ed25519:xyz"), ("[peers] key", "base64")),
    "two datastores of one name": (
        lambda text: text + '\n[[datastore]]\nname = "default"\npath = "elsewhere"\n',
        ("[datastore] name", "rename"),
    ),
    "an open port without TLS": (
        lambda text: text.replace("127.0.0.1", "0.0.0.0"),
        ("listen", "plaintext = true"),
    ),
    "an etcd both embedded and external": (
        lambda text: text.replace("# endpoints = []", 'endpoints = ["127.0.0.1:1"]'),
        ("[etcd] endpoints", "embedded = false"),
    ),
    "no TOML": (lambda text: text + "\n[[[", ("not TOML", "line")),
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_with(zone: Zone, settings: str) -> None:
    spoil, about = SETTINGS[settings]
    zone.config.write_text(spoil(zone.config.read_text()))
    before = content(zone.directory)
    fails(zone, BAD_INPUT, str(zone.config), *about)
    assert content(zone.directory) == before
    assert not (zone.directory / "etcd").exists()


def test_settings_that_are_not_there_or_no_file(zone: Zone, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.toml", tmp_path):
        done = run("agent", "run", "--config", path)
        assert (done.status, str(path) in done.sentence) == (BAD_INPUT, True)


# -- the zone's own files


@pytest.mark.parametrize(
    ("name", "spoil", "about"),
    [
        ("credentials", Path.unlink, "cannot be read"),
        ("credentials", lambda path: path.chmod(0o644), "chmod 600"),
        ("credentials", lambda path: path.write_text("oneadmin"), "user:secret"),
        ("credentials", lambda path: path.write_text(""), "user:secret"),
        ("keys/zone.key", Path.unlink, "cannot be read"),
        ("keys/zone.key", lambda path: path.chmod(0o640), "chmod 600"),
        ("keys/zone.key", lambda path: path.write_text("none"), "zone.key"),
        ("state/high-water", Path.unlink, "missing"),
        ("state/high-water", lambda path: path.write_text("{}"), "cannot be read"),
        ("state/high-water", lambda path: path.write_text(""), "cannot be read"),
    ],
)
def test_a_file_of_the_zone_that_does_not_hold(
    zone: Zone, name: str, spoil: Callable[[Path], object], about: str
) -> None:
    path = zone.directory / name
    secret = zone.credentials.read_text().strip().partition(":")[2]
    spoil(path)
    before = content(zone.directory)
    sentence = fails(zone, BAD_INPUT, str(path), about)
    assert secret not in sentence
    assert content(zone.directory) == before


# -- ports


@pytest.mark.parametrize("which", ["http", "grpc", "peer", "etcd_port"])
def test_a_port_that_is_taken(zone: Zone, which: str) -> None:
    port = getattr(zone, which)
    with socket.create_server(("127.0.0.1", port)):
        sentence = fails(zone, BAD_INPUT, str(port))
        assert "port" in sentence.lower() or "listen" in sentence
    zone.start()  # and once it is free, the zone begins as if nothing had been
    assert zone.native.market_names() == []


def test_a_datastore_that_cannot_be_written_does_not_keep_the_others_from_being_used(zone: Zone) -> None:
    (zone.directory / "in-the-way").touch()
    with zone.config.open("a") as settings:
        settings.write('\n[[datastore]]\nname = "broken"\npath = "in-the-way/below"\n')
        settings.write('\n[[datastore]]\nname = "new"\npath = "not-there-yet"\n')
    zone.start()
    assert zone.native.import_image("fine", b"fine").datastore == "default"
    assert [row["name"] for row in zone.ask("datastore", "list")] == ["default", "broken", "new"]
    file = zone.directory / "disk.raw"
    file.write_bytes(b"disk")
    assert "in-the-way" in zone.fails(4, "image", "import", file, "--name", "n", "-d", "broken")
    assert zone.native.image_names() == ["fine"]
    assert zone.ask("image", "import", file, "--name", "new", "-d", "new")["datastore"] == "new"


# -- etcd


@pytest.fixture
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """An etcd that is no agent's child."""
    server = EtcdServer(tmp_path_factory.mktemp("external"))
    server.start()
    yield server
    server.stop()


def use(zone: Zone, port: int) -> None:
    """Let a zone use an etcd that runs elsewhere."""
    zone.set("etcd", embedded=False, endpoints=[f"127.0.0.1:{port}"])
    zone.etcd_port = port


def test_an_external_etcd_that_is_down(zone: Zone) -> None:
    port = free_port()
    use(zone, port)
    before = content(zone.directory)
    fails(zone, NO_ANSWER, f"127.0.0.1:{port}", "etcd")
    assert content(zone.directory) == before


def test_an_external_etcd_that_accepts_and_says_nothing(zone: Zone) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        use(zone, port)
        zone.set("timeouts", etcd_call_seconds=1.0, etcd_start_seconds=2.0)
        fails(zone, NO_ANSWER, f"127.0.0.1:{port}", "etcd")


def test_what_listens_there_and_is_no_etcd(zone: Zone, zones: Zones) -> None:
    other = zones.make(4, "rome")
    other.start()
    use(zone, other.grpc)
    done = run("agent", "run", "--config", zone.config, "--log-level", "error")
    assert done.status in {BAD_INPUT, NO_ANSWER}, done
    assert f"127.0.0.1:{other.grpc}" in done.sentence


def test_the_embedded_etcd_of_another_zone(zone: Zone, zones: Zones) -> None:
    other = zones.make(4, "rome")
    other.start()
    other.native.create_market("roman")
    before = other.dump()
    use(zone, other.etcd_port)
    done = run("agent", "run", "--config", zone.config, "--log-level", "error")
    assert (done.status, "belongs to zone 4" in done.sentence) == (BAD_INPUT, True), done
    assert other.dump() == before
    assert other.native.market_names() == ["roman"]


def test_an_etcd_that_holds_this_zone_under_another_key(zone: Zone, zones: Zones, etcd: EtcdServer) -> None:
    use(zone, etcd.port)
    zone.start()
    zone.native.create_market("norse")
    assert zone.terminate() == 0
    before = zone.dump()
    namesake = zones.make(3, "oslo-too")
    use(namesake, etcd.port)
    fails(namesake, BAD_INPUT, "another key")
    assert zone.dump() == before
    zone.start()
    assert zone.native.market_names() == ["norse"]


def test_an_etcd_that_lost_what_the_zone_had_written(zone: Zone) -> None:
    zone.start()
    zone.native.create_market("remembered")
    assert zone.terminate() == 0
    aside = zone.directory / "etcd-aside"
    (zone.directory / "etcd").rename(aside)
    before = content(zone.directory)
    fails(zone, BAD_INPUT, "known to have reached commit", "put etcd's data back")
    assert {k: v for k, v in content(zone.directory).items() if "aside" not in k} == {
        k: v for k, v in before.items() if "aside" not in k
    }
    shutil.rmtree(zone.directory / "etcd")
    aside.rename(zone.directory / "etcd")
    zone.start()
    assert zone.native.market_names() == ["remembered"]


def test_an_etcd_that_is_not_installed(zone: Zone) -> None:
    zone.set("etcd", binary="no-such-etcd")
    fails(zone, BAD_INPUT, "no-such-etcd")


def test_an_etcd_that_cannot_start(zone: Zone) -> None:
    zone.set("etcd", binary="/bin/false")
    fails(zone, NO_ANSWER, "etcd")
