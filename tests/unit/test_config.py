import dataclasses
import re
from pathlib import Path

import pytest

from fedmarket.errors import ConfigError
from zone_agent.address import Address
from zone_agent.config import Config, load
from zone_agent.config.schema import ARRAYS, TABLES

KEY = "ed25519:" + "A" * 43 + "="
KEY_2 = "ed25519:" + "A" * 42 + "E="

MINIMAL = '[zone]\nid = 100\nname = "tokyo"\n'
PEER = f'[[peers]]\nid = 0\naddress = "berlin:7635"\nkey = "{KEY}"\n'


def read(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "zone.toml"
    file.write_text(text)
    return load(file)


ELSEWHERE = MINIMAL + '[etcd]\nembedded = false\nendpoints = ["127.0.0.1:2379", "localhost:2379", "[::1]:2379"]\n'
FILES = 'tls_ca = "zone.toml"\ntls_cert = "zone.toml"\ntls_key = "zone.toml"\n'
LOGIN = 'user = "tokyo"\npassword_file = "zone.toml"\n'


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    message = raised.value.message
    assert message.startswith(str(tmp_path / "zone.toml"))
    assert "\n" not in message
    return message.removeprefix(str(tmp_path / "zone.toml"))


def test_id_and_name_are_enough(tmp_path: Path) -> None:
    config = read(tmp_path, MINIMAL)

    assert (config.zone.id, config.zone.name) == (100, "tokyo")
    assert config.etcd.embedded
    assert str(config.http.listen) == "127.0.0.1:7633"
    assert str(config.grpc.listen) == "127.0.0.1:7634"
    assert str(config.peer.listen) == "0.0.0.0:7635"
    assert config.peers == ()
    assert [(d.name, d.driver, d.path) for d in config.datastores] == [
        ("default", "fs", tmp_path / "datastores" / "default")
    ]
    assert config.auth.credentials == tmp_path / "credentials"
    assert config.layout.key == tmp_path / "keys" / "zone.key"


def test_everything_can_be_set(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem", "ca.pem", "password"):
        (tmp_path / name).touch()
    text = f"""
        [zone]
        id = 2146
        name = "tokyo 2"
        [etcd]
        embedded = false
        endpoints = ["etcd-1:2379", "[::1]:2379"]
        tls_ca = "ca.pem"
        tls_cert = "{tmp_path}/cert.pem"
        tls_key = "key.pem"
        tls_server_name = "etcd.example"
        user = "tokyo"
        password_file = "password"
        prefix = "/x/"
        [http]
        listen = "0.0.0.0:0"
        tls_cert = "cert.pem"
        tls_key = "{tmp_path}/key.pem"
        url = "https://market.example.org/base/"
        [grpc]
        listen = "192.0.2.1:1"
        plaintext = true
        advertise = "market.example.org:7634"
        [timeouts]
        etcd_call_seconds = 3
        beats_missed = 5
        [[datastore]]
        name = "a"
        path = "/srv/a"
        [[datastore]]
        name = "b"
        driver = "fs"
        path = "b"
        {PEER}
    """

    config = read(tmp_path, text)

    assert config.etcd.endpoints == ("etcd-1:2379", "[::1]:2379")
    assert config.etcd.external == {
        "tls_ca": tmp_path / "ca.pem",
        "tls_cert": tmp_path / "cert.pem",
        "tls_key": tmp_path / "key.pem",
        "tls_server_name": "etcd.example",
        "user": "tokyo",
        "password_file": tmp_path / "password",
    }
    assert config.http.tls_cert == tmp_path / "cert.pem"
    assert config.http.tls_key == tmp_path / "key.pem"
    assert config.http.tls
    assert config.http.public_url(99) == "https://market.example.org/base"
    assert config.grpc.public_address(99) == Address("market.example.org", 7634)
    assert (config.timeouts.etcd_call_seconds, config.timeouts.beats_missed) == (3.0, 5)
    assert isinstance(config.timeouts.etcd_call_seconds, float)
    assert [datastore.path for datastore in config.datastores] == [Path("/srv/a"), tmp_path / "b"]
    assert config.peers[0].address == Address("berlin", 7635)
    assert config.peers[0].key == KEY


def test_what_is_told_to_others_follows_from_what_was_bound(tmp_path: Path) -> None:
    config = read(tmp_path, MINIMAL + '[http]\nlisten = "127.0.0.1:0"\n[grpc]\nlisten = "[::1]:0"\n')

    assert config.http.public_url(4711) == "http://127.0.0.1:4711"
    assert config.grpc.public_address(4711) == Address("::1", 4711)
    assert config.peer.public_address(4711).port == 4711
    assert not config.peer.public_address(4711).is_wildcard


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", None, "[zone] id is missing"),
        ("[zone]\nid = 1\n", 1, "[zone] name is missing"),
        (MINIMAL + "[zoom]\n", 4, "[zoom] is not a setting of fedmarket"),
        (MINIMAL + "[timeout]\n", 4, "did you mean `timeouts`?"),
        ("colour = 1\n" + MINIMAL, 1, "colour is not a setting"),
        (MINIMAL + "[http]\nlistne = 1\n", 5, "[http] listne is not a setting of fedmarket: did you mean `listen`?"),
        (MINIMAL + "[etcd]\nca = 1\n", 5, "use one of embedded, endpoints"),
        ("[zone]\nid = true\n", 2, "[zone] id does not hold: it must be a whole number, not true or false"),
        ("[zone]\nid = 1.0\n", 2, "must be a whole number"),
        ('[zone]\nid = "1"\n', 2, "not a text"),
        ("[zone]\nid = 2147\n", 2, "2147 is out of range: choose a number from 0 to 2146"),
        ("[zone]\nid = -1\n", 2, "out of range"),
        ('[zone]\nid = 1\nname = "a/b"\n', 3, "which names may not"),
        ('[zone]\nid = 1\nname = ""\n', 3, "[zone] name does not hold"),
        ("zone = 1\n", 1, "[zone] is a table, not a number"),
        ("[[zone]]\nid = 1\n", 1, "[zone] is a table, not a list"),
        (MINIMAL + "[etcd]\nembedded = 1\n", 5, "true or false"),
        (MINIMAL + '[etcd]\nendpoints = "a:1"\n', 5, "a list of texts"),
        (MINIMAL + "[etcd]\nendpoints = [1]\n", 5, "a text in quotes"),
        (MINIMAL + '[etcd]\nendpoints = ["a:1"]\n', 5, "embedded = false"),
        (MINIMAL + "[etcd]\nembedded = false\n", 4, "[etcd] endpoints is missing"),
        (MINIMAL + '[etcd]\nembedded = false\nendpoints = ["http://a:1"]\n', 6, "is not an address"),
        (MINIMAL + "[etcd]\nclient_port = 65536\n", 5, "out of range"),
        (MINIMAL + '[etcd]\nbinary = ""\n', 5, "is empty"),
        (MINIMAL + '[etcd]\nprefix = "/x"\n', 5, "must begin and end with a slash"),
        (MINIMAL + '[etcd]\ntls_ca = "zone.toml"\n', 5, "remove it, or say embedded = false"),
        (MINIMAL + '[etcd]\nuser = "tokyo"\n', 5, "[etcd] user is for an etcd that runs elsewhere"),
        (ELSEWHERE + 'tls_ca = "ca.pem"\n', 7, "ca.pem, which is no file"),
        (ELSEWHERE + 'user = "tokyo"\npassword_file = "none"\n', 8, "none, which is no file"),
        (
            ELSEWHERE + 'tls_ca = "zone.toml"\ntls_cert = "zone.toml"\n',
            4,
            "[etcd] tls_key is missing: tls_cert needs it",
        ),
        (
            ELSEWHERE + 'tls_ca = "zone.toml"\ntls_key = "zone.toml"\n',
            4,
            "[etcd] tls_cert is missing: tls_key needs it",
        ),
        (
            ELSEWHERE + 'tls_cert = "zone.toml"\ntls_key = "zone.toml"\n',
            4,
            "[etcd] tls_ca is missing: tls_cert needs it",
        ),
        (ELSEWHERE + 'tls_server_name = "x"\n', 4, "[etcd] tls_ca is missing: tls_server_name needs it"),
        (ELSEWHERE + 'user = "tokyo"\n', 4, "[etcd] password_file is missing: user needs it"),
        (ELSEWHERE + 'password_file = "zone.toml"\n', 4, "[etcd] user is missing: password_file needs it"),
        (ELSEWHERE.replace("localhost", "etcd-2") + LOGIN, 7, "would send its password to etcd-2:2379 as clear text"),
        (MINIMAL + '[http]\nlisten = "7633"\n', 5, "[http] listen does not hold: '7633' is not an address"),
        (MINIMAL + '[http]\nlisten = "0.0.0.0:7633"\n', 5, "plaintext = true"),
        (MINIMAL + '[grpc]\nlisten = "berlin:7634"\n', 5, "other machines can reach"),
        (MINIMAL + '[grpc]\ntls_cert = "here"\n', 4, "[grpc] tls_key is missing"),
        (MINIMAL + '[grpc]\ntls_key = "here"\n', 4, "[grpc] tls_cert is missing"),
        (MINIMAL + '[http]\ntls_cert = "no"\ntls_key = "no"\n', 5, "no file"),
        (MINIMAL + '[http]\ntls_cert = "zone.toml"\ntls_key = "zone.toml"\nplaintext = true\n', 7, "contradicts"),
        (MINIMAL + '[http]\nurl = "berlin:7633"\n', 5, "is not a usable URL"),
        (MINIMAL + '[http]\nurl = "http://"\n', 5, "is not a usable URL"),
        (MINIMAL + '[http]\nurl = "http://h:99999"\n', 5, "is not a usable URL"),
        (MINIMAL + '[http]\nurl = "http://u:p@h/?q"\n', 5, "is not a usable URL"),
        (MINIMAL + '[grpc]\nadvertise = "0.0.0.0:1"\n', 5, "nobody can dial"),
        (MINIMAL + '[peer]\nadvertise = "h:0"\n', 5, "nobody can dial"),
        (MINIMAL + '[auth]\ncredentials = ""\n', 5, "it must be a path"),
        (MINIMAL + '[auth]\ncredentials = "a\\u0000b"\n', 5, "it must be a path"),
        (MINIMAL + "[timeouts]\nbeat_seconds = 0\n", 5, "out of range"),
        (MINIMAL + "[timeouts]\nbeat_seconds = nan\n", 5, "out of range"),
        (MINIMAL + "[timeouts]\nbeat_seconds = inf\n", 5, "out of range"),
        (MINIMAL + "[timeouts]\nbeats_missed = 1\n", 5, "out of range"),
        (MINIMAL + "[timeouts]\nidle_commit_seconds = 8\n", 5, "out of range"),
        (MINIMAL + "[timeouts]\nbackoff_first_seconds = 6\n", 5, "must not be longer than backoff_max_seconds"),
        (MINIMAL + "[timeouts]\netcd_start_seconds = 1\n", 4, "must not be longer than etcd_start_seconds"),
        (MINIMAL + "[timeouts]\nurl_lifetime_seconds = 20\n", 4, "must not be longer than url_lifetime_seconds"),
        (MINIMAL + "datastore = 1\n", 4, "datastore is not a setting"),
        (MINIMAL + "[datastore]\n", 4, "write [[datastore]]"),
        (MINIMAL + '[[datastore]]\npath = "x"\n', 4, "[datastore] name is missing"),
        (MINIMAL + '[[datastore]]\nname = "x"\n', 4, "[datastore] path is missing"),
        (MINIMAL + '[[datastore]]\nname = ".."\npath = "x"\n', 5, "[datastore] name does not hold"),
        (MINIMAL + '[[datastore]]\nname = "x"\npath = "x"\ndriver = "zfs"\n', 7, "choose fs"),
        (
            MINIMAL + '[[datastore]]\nname = "x"\npath = "x"\n[[datastore]]\nname = "x"\npath = "y"\n',
            8,
            "as of another datastore",
        ),
        (
            MINIMAL + '[[datastore]]\nname = "x"\npath = "x"\n[[datastore]]\nname = "y"\npath = "./x"\n',
            9,
            "directory of another datastore",
        ),
        (MINIMAL + PEER.replace("id = 0", "id = 100"), 5, "this zone's own id"),
        (MINIMAL + PEER + PEER.replace(KEY, KEY_2), 9, "is 0 as of another peer"),
        (MINIMAL + PEER + PEER.replace("id = 0", "id = 1"), 11, "key of another peer"),
        (MINIMAL + PEER.replace("berlin:7635", "berlin"), 6, "is not an address"),
        (MINIMAL + PEER.replace("berlin:7635", "0.0.0.0:1"), 6, "cannot be dialled"),
        (MINIMAL + PEER.replace(KEY, KEY[:-1]), 7, "[peers] key does not hold"),
        (MINIMAL + PEER.replace(KEY, KEY.removeprefix("ed25519:")), 7, "[peers] key does not hold"),
        (MINIMAL + PEER.replace(KEY, "ed25519:" + "A" * 42 + "B="), 7, "[peers] key does not hold"),
        (MINIMAL + PEER.replace(KEY, "ed25519:AAAA"), 7, "public key"),
    ],
)
def test_what_does_not_hold_is_named_with_its_place(tmp_path: Path, text: str, line: int | None, says: str) -> None:
    message = refused(tmp_path, text)

    assert says in message
    # A key outside every table cannot be told from a stray line of the table before it.
    found = re.match(r", line (\d+): ", message)
    assert (int(found[1]) if found else None) == line


def test_a_password_goes_to_this_machine_or_over_tls(tmp_path: Path) -> None:
    here = read(tmp_path, ELSEWHERE + LOGIN)
    elsewhere = read(tmp_path, ELSEWHERE.replace("localhost", "etcd-2") + FILES + LOGIN)

    assert here.etcd.user == elsewhere.etcd.user == "tokyo"


def test_text_that_is_no_toml_is_said_with_its_line(tmp_path: Path) -> None:
    assert "line 2" in refused(tmp_path, "[zone]\nid = = 1\n")
    assert "line 3" in refused(tmp_path, "[zone]\nid = 1\nid = 2\n")


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'[zone]\nname = "\xe4"\n')
    for name, says in (("missing.toml", "fedmarket agent init"), (".", "cannot be read"), ("latin.toml", "UTF-8")):
        with pytest.raises(ConfigError, match=says):
            load(tmp_path / name)


def test_every_setting_says_why_it_is_there() -> None:
    for cls in [*TABLES.values(), *ARRAYS.values()]:
        assert cls.__doc__
        for field in dataclasses.fields(cls):
            assert field.metadata["setting"].doc.endswith(".")
