import stat
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest

from federation.head import FEDERATION
from federation.highwater import HighWater
from federation.trust.keys import PublicKey, ZoneKey
from fedmarket.errors import AlreadyExists, BadInput, ConfigError
from zone_agent.address import Address
from zone_agent.cli.main import run
from zone_agent.config import load
from zone_agent.config.schema import Timeouts
from zone_agent.init import NewZone, make_zone

TOKYO = NewZone(id=100, name="tokyo")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_zone_has_its_files_and_their_modes(tmp_path: Path) -> None:
    made = make_zone(tmp_path / "new" / "tokyo", TOKYO)

    layout = made.config.layout
    assert layout.directory == tmp_path / "new" / "tokyo"
    assert mode(layout.directory) == mode(layout.key.parent) == mode(layout.state) == 0o700
    assert mode(layout.key) == mode(made.config.auth.credentials) == mode(layout.config) == 0o600
    key = ZoneKey.load(layout.key)
    assert layout.public_key.read_text() == f"{key.public}\n"
    assert made.key == str(key.public)
    user, _, secret = made.config.auth.credentials.read_text().strip().partition(":")
    assert user == "oneadmin"
    assert len(secret) >= 32
    assert HighWater(layout.high_water).mark(FEDERATION) is None
    assert list(layout.directory.parent.iterdir()) == [layout.directory]


def test_what_is_random_differs_between_zones(tmp_path: Path) -> None:
    first, second = make_zone(tmp_path / "a", TOKYO), make_zone(tmp_path / "b", TOKYO)

    assert first.key != second.key
    assert first.config.auth.credentials.read_text() != second.config.auth.credentials.read_text()


def test_the_written_settings_are_the_defaults(tmp_path: Path) -> None:
    made = make_zone(tmp_path / "tokyo", TOKYO).config
    minimal = tmp_path / "tokyo" / "minimal.toml"
    minimal.write_text('[zone]\nid = 100\nname = "tokyo"\n')

    assert replace(made, file=minimal) == load(minimal)


def test_every_default_that_is_commented_out_is_the_default(tmp_path: Path) -> None:
    made = make_zone(tmp_path / "tokyo", TOKYO).config
    before_peers = made.file.read_text().partition("# [[peers]]")[0]
    lines = [line.removeprefix("# ") if " = " in line else line for line in before_peers.splitlines()]
    shown = tmp_path / "tokyo" / "shown.toml"
    shown.write_text("\n".join(line for line in lines if not line.startswith("#") and _is_toml(line)))

    assert len(tomllib.loads(shown.read_text())["timeouts"]) == len(fields(Timeouts))
    assert replace(load(shown), file=made.file) == made


def _is_toml(line: str) -> bool:
    try:
        tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return False
    return True


def test_listeners_and_etcd_go_into_the_file(tmp_path: Path) -> None:
    new = replace(
        TOKYO,
        http=Address("127.0.0.1", 1),
        grpc=Address("::1", 2),
        peer=Address("127.0.0.1", 3),
        embedded_etcd=False,
        etcd_endpoints=("a:1", "b:2"),
    )

    made = make_zone(tmp_path / "tokyo", new)

    config = made.config
    assert (config.http.listen, config.grpc.listen, config.peer.listen) == (new.http, new.grpc, new.peer)
    assert (config.etcd.embedded, config.etcd.endpoints) == (False, ("a:1", "b:2"))
    assert tomllib.loads(made.peers_toml) == {"peers": [{"id": 100, "address": "127.0.0.1:3", "key": made.key}]}


def test_the_table_for_the_other_zone_is_taken_by_it(tmp_path: Path) -> None:
    made = make_zone(tmp_path / "tokyo", TOKYO)
    berlin = make_zone(tmp_path / "berlin", NewZone(id=0, name="berlin")).config.file
    berlin.write_text(berlin.read_text() + made.peers_toml)

    peer = load(berlin).peers[0]

    assert (peer.id, peer.address.port) == (100, 7635)
    assert not peer.address.is_wildcard
    assert PublicKey.parse(peer.key) == ZoneKey.load(made.config.layout.key).public


def test_an_empty_directory_is_taken_and_one_in_use_is_not(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    made = make_zone(empty, TOKYO)
    before = {path: path.read_bytes() for path in empty.rglob("*") if path.is_file()}

    with pytest.raises(AlreadyExists, match="holds a zone already: run it with"):
        make_zone(empty, TOKYO)

    assert {path: path.read_bytes() for path in empty.rglob("*") if path.is_file()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for target in (tmp_path / "other", made.config.file, tmp_path / "link"):
        with pytest.raises(AlreadyExists, match="choose another"):
            make_zone(target, TOKYO)


@pytest.mark.parametrize(
    ("new", "says"),
    [
        (replace(TOKYO, id=2147), "out of range"),
        (replace(TOKYO, id=-1), "out of range"),
        (replace(TOKYO, name='to"kyo'), "which names may not"),
        (replace(TOKYO, name="to\x7fkyo"), "no zone was made"),
        (replace(TOKYO, name=".."), "not usable as a name"),
        (replace(TOKYO, grpc=Address("0.0.0.0", 1)), "other machines can reach"),
        (replace(TOKYO, embedded_etcd=False), "endpoints is missing"),
        (replace(TOKYO, etcd_endpoints=("a:1",)), "goes with embedded = false"),
        (replace(TOKYO, embedded_etcd=False, etcd_endpoints=("a",)), "is not an address"),
    ],
)
def test_settings_that_do_not_hold_leave_nothing(tmp_path: Path, new: NewZone, says: str) -> None:
    with pytest.raises(BadInput, match="no zone was made") as raised:
        make_zone(tmp_path / "tokyo", new)

    assert says in raised.value.message
    assert str(tmp_path) not in raised.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_failure_midway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("federation.highwater.initialise", no_space)

    with pytest.raises(ConfigError, match="No space left"):
        make_zone(tmp_path / "tokyo", TOKYO)

    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_hold_a_zone_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="cannot be made in"):
        make_zone(tmp_path / "file" / "tokyo", TOKYO)


def test_the_command_makes_a_zone_and_says_what_is_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "tokyo"
    args = ["agent", "init", "--zone-id", "100", "--zone-name", "tokyo", "--peer", "127.0.0.1:9", str(target)]

    assert run(args) == 0
    out = capsys.readouterr().out
    assert f"fedmarket agent run --config {target}/zone.toml" in out
    peers = tomllib.loads(out[out.index("[[peers]]") :])["peers"]
    assert (peers[0]["id"], peers[0]["address"]) == (100, "127.0.0.1:9")
    assert (target / "credentials").read_text().partition(":")[2].strip() not in out
    assert run(args) == 4
    assert capsys.readouterr().err.startswith(f"fedmarket: {target} holds a zone already")
    assert run([*args[:-1], str(tmp_path / "x"), "--http", "nonsense"]) == 2
    assert run([*args[:-1], str(tmp_path / "x"), "--no-embedded-etcd"]) == 2


def test_the_command_that_runs_an_agent_says_what_is_wrong_with_its_zone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "zone.toml").write_text("[zone]\nid = 1\n")

    assert run(["agent", "run", "--config", str(tmp_path / "missing.toml")]) == 2
    assert "fedmarket agent init" in capsys.readouterr().err
    assert run(["agent", "run", "--config", str(tmp_path / "zone.toml")]) == 2
    assert "line 1: [zone] name is missing" in capsys.readouterr().err
