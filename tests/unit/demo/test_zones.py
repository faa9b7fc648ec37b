import tomllib
from pathlib import Path

import pytest

from demo.errors import DemoError
from demo.narrator import Narrator
from demo.processes import wait_until
from demo.zones import Ports, Zone, forget, free_ports


@pytest.fixture
def berlin(tmp_path: Path) -> Zone:
    return made(Zone(0, tmp_path / "berlin", Ports(1001, 1002, 1003), Narrator()))


@pytest.fixture
def tokyo(tmp_path: Path) -> Zone:
    return made(Zone(100, tmp_path / "tokyo", Ports(2001, 2002, 2003), Narrator()))


def made(zone: Zone) -> Zone:
    (zone.directory / "keys").mkdir(parents=True)
    (zone.directory / "keys" / "zone.pub").write_text(f"ed25519:key-of-{zone.name}\n")
    zone.config.write_text(f"[zone]\nid = {zone.id}\n")
    return zone


def test_a_trusted_zone_is_a_peer_in_the_settings(berlin: Zone, tokyo: Zone) -> None:
    berlin.trust(tokyo)
    settings = tomllib.loads(berlin.config.read_text())
    assert settings["peers"] == [{"id": 100, "address": "127.0.0.1:2003", "key": "ed25519:key-of-tokyo"}]


def test_the_variables_lead_to_the_zone(tokyo: Zone) -> None:
    assert tokyo.variables == {
        "FEDMARKET_ENDPOINT": "127.0.0.1:2002",
        "FEDMARKET_CREDENTIALS": str(tokyo.directory / "credentials"),
        "ONE_XMLRPC": "http://127.0.0.1:2001/RPC2",
        "ONE_GRPC": "127.0.0.1:2002",
        "ONE_AUTH": str(tokyo.directory / "credentials"),
    }


def test_free_ports_differ() -> None:
    assert len(set(free_ports(6))) == 6


def test_an_agent_that_ended_is_named_with_the_end_of_its_log(
    berlin: Zone, tokyo: Zone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "fedmarket"
    script.write_text("#!/bin/sh\necho the disk is full\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr("demo.zones.BIN", tmp_path)
    monkeypatch.setattr("demo.command.BIN", tmp_path)
    berlin.start(keep=False)
    with pytest.raises(DemoError, match="the disk is full"):
        wait_until(lambda: berlin.follows(tokyo), 10)


def test_forget_removes_the_zones_and_nothing_else(berlin: Zone, tmp_path: Path) -> None:
    (tmp_path / "berlin.env").touch()
    (tmp_path / "mine").touch()
    forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
