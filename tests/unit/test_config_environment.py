"""Settings in the environment, and everything that is wrong at once."""

import json
import os
import shutil
from pathlib import Path

import pytest

from fedmarket.errors import ConfigError
from tests.support.certificates import write_certificate
from zone_agent.address import Address
from zone_agent.cli.main import run
from zone_agent.config import load
from zone_agent.config.environment import variable_of
from zone_agent.config.load import read
from zone_agent.config.source import Place
from zone_agent.init import NewZone, make_zone
from zone_agent.presence import present


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The zone.toml of a new zone, with an etcd to find, and free ports."""
    for name in [name for name in os.environ if name.startswith("FEDMARKET_")]:
        monkeypatch.delenv(name)
    free = Address("127.0.0.1", 0)
    zone = NewZone(id=5, name="oslo", http=free, grpc=free, peer=free)
    return make_zone(tmp_path / "oslo", zone).config.file


def refused(file: Path, **environ: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(file, environ)
    return raised.value.message


def test_a_variable_overrides_the_file_whatever_its_type(file: Path) -> None:
    config = load(
        file,
        {
            "FEDMARKET_ZONE_ID": "6",
            "FEDMARKET_GRPC_LISTEN": "[::1]:99",
            "FEDMARKET_ETCD_EMBEDDED": "false",
            "FEDMARKET_ETCD_ENDPOINTS": "a:1, b:2",
            "FEDMARKET_TIMEOUTS_BEAT_SECONDS": "3",
            "FEDMARKET_TIMEOUTS_VISIBLE_SECONDS": "0.5",
            "FEDMARKET_AUTH_CREDENTIALS": "elsewhere",
            "FEDMARKET_ENDPOINT": "the command's own",
            "FEDMARKET_FAILPOINT": "of tests",
        },
    )

    assert (config.zone.id, config.zone.name) == (6, "oslo")
    assert config.grpc.listen == Address("::1", 99)
    assert (config.etcd.embedded, config.etcd.endpoints) == (False, ("a:1", "b:2"))
    assert (config.timeouts.beat_seconds, config.timeouts.visible_seconds) == (3.0, 0.5)
    assert config.auth.credentials == file.parent / "elsewhere"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("FEDMARKET_GRPC_LISTEN", "nonsense", "[grpc] listen does not hold: 'nonsense' is not an address"),
        ("FEDMARKET_GRPC_LISTEN", "0.0.0.0:1", "[grpc] listen is 0.0.0.0:1, which other machines can reach"),
        ("FEDMARKET_ETCD_EMBEDDED", "yes", "it must be true or false, not a text"),
        ("FEDMARKET_ZONE_ID", "2147", "2147 is out of range"),
        ("FEDMARKET_ZONE_ID", "one", "it must be a whole number, not a text"),
        ("FEDMARKET_TIMEOUTS_BEAT_SECONDS", "nan", "out of range"),
        ("FEDMARKET_GRPC_LISTN", "x", "is not a setting of fedmarket: did you mean FEDMARKET_GRPC_LISTEN?"),
        ("FEDMARKET_PEERS_0_ID", "1", "[[peers]] is read from the file only"),
    ],
)
def test_a_variable_that_does_not_hold_is_named(file: Path, variable: str, value: str, says: str) -> None:
    message = refused(file, **{variable: value})

    assert message.startswith(f"{variable} in the environment: ")
    assert says in message


def test_a_variable_of_no_table_is_not_ours_to_judge(file: Path) -> None:
    assert load(file, {"FEDMARKET_COLOUR": "blue", "FEDMARKET_TIMEOUT": "3"}).zone.id == 5
    assert variable_of(Place("http", "tls_cert")) == "FEDMARKET_HTTP_TLS_CERT"


def test_everything_that_is_wrong_is_found_at_once(file: Path) -> None:
    file.write_text(
        '[zone]\nid = 9999\nname = "a/b"\n[http]\nurl = "x"\nlisten = "0.0.0.0:1"\n[gprc]\n'
        '[timeouts]\nbeats_missed = 1\n[[datastore]]\nname = ".."\npath = "x"\n[[peers]]\nid = 1\n'
    )

    problems = read(file, {}).problems

    assert {problem.origin.line for problem in problems} == {2, 5, 6, 7, 9, 11, 13}
    assert len(problems) == 8  # of the last table, both the address and the key are missing


def check(file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    capsys.readouterr()
    return run(["config", "check", str(file)]), capsys.readouterr().out.splitlines()


def test_a_sound_zone_passes_the_check(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(file, capsys) == (0, [f"{file} holds."])
    with present(file):
        status, (line,) = check(file, capsys)
        assert (status, f"process {os.getpid()}" in line) == (0, True)
        with pytest.raises(ConfigError, match="runs already"), present(file):
            pass
    assert run(["config", "check", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(file), "agent_pid": None, "problems": []}


def test_what_the_settings_name_is_looked_at_too(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    cert, key = write_certificate(file.parent, days=-1)
    (file.parent / "credentials").chmod(0o644)
    shutil.rmtree(file.parent / "datastores")
    (file.parent / "datastores").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("FEDMARKET_PEER_LISTEN", f"127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("FEDMARKET_ETCD_BINARY", "no-such-etcd")
        monkeypatch.setenv("FEDMARKET_HTTP_TLS_CERT", str(cert))
        monkeypatch.setenv("FEDMARKET_HTTP_TLS_KEY", str(key))
        monkeypatch.setenv("FEDMARKET_GRPC_TLS_CERT", str(cert))
        monkeypatch.setenv("FEDMARKET_GRPC_TLS_KEY", str(file.parent / "keys" / "zone.key"))
        status, lines = check(file, capsys)

    assert status == 2
    said = "\n".join(lines)
    for part in (
        "run chmod 600",
        "which ended at",
        "[grpc] tls_cert does not hold",
        "is no-such-etcd, which is not found",
        "where something listens already",
        "is none: correct the path",
    ):
        assert part in said, said
    assert all(": [" in line for line in lines)


def test_show_says_where_each_setting_comes_from(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMARKET_HTTP_URL", "https://oslo.example")

    assert run(["config", "show", str(file), "--json"]) == 0

    shown = {each["setting"]: each for each in json.loads(capsys.readouterr().out)}
    assert shown["[http] url"]["variable"] == "FEDMARKET_HTTP_URL"
    assert shown["[http] url"]["value"] == "https://oslo.example"
    assert shown["[zone] name"]["origin"] == "file"
    assert file.read_text().splitlines()[shown["[zone] name"]["line"] - 1] == 'name = "oslo"'
    assert shown["[etcd] embedded"] == {
        "setting": "[etcd] embedded", "value": True, "origin": "default", "line": None, "variable": "",
    }  # fmt: skip
    assert run(["config", "show", str(file)]) == 0
    assert "# FEDMARKET_HTTP_URL" in capsys.readouterr().out


def test_reload_is_asked_of_an_agent_that_is_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["agent", "reload", "--config", str(file)]) == 3
    assert "no agent runs with" in capsys.readouterr().err
    file.write_text("[zone]\n")
    assert run(["agent", "reload", "--config", str(file)]) == 2
