"""`fedmarket etcd grant` as far as it goes without an etcd; with one: tests/integration/test_etcd_grants.py."""

import shlex
from pathlib import Path

import pytest

from federation.etcd import grants
from tests.support.etcd_cluster import Authority
from tests.unit.cli.conftest import Fedmarket


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "authority")
    made.issue_user("root")
    return made


def secret(file: Path, text: str = "s3cret", mode: int = 0o600) -> Path:
    file.write_text(text)
    file.chmod(mode)
    return file


def test_print_shows_what_to_do_by_hand_and_asks_nobody(bare: Fedmarket) -> None:
    lines = bare("etcd", "grant", "--zone-id", 3, "--print", "--enable-auth").out.splitlines()

    role = "/fedmarket/1/zone/3"
    assert lines == [
        f"etcdctl role add {role}",
        f"etcdctl role grant-permission --prefix=true {role} readwrite /fedmarket/1/catalog/3/",
        f"etcdctl role grant-permission --prefix=true {role} readwrite /fedmarket/1/zone/3/",
        f"etcdctl role grant-permission --prefix=true {role} read /fedmarket/1/catalog/",
        "etcdctl user add fedmarket-zone-3 --no-password",
        f"etcdctl user grant-role fedmarket-zone-3 {role}",
        "etcdctl auth enable",
    ]


def test_printed_commands_are_safe_to_paste(bare: Fedmarket, tmp_path: Path) -> None:
    hostile = "/a b; rm -rf $HOME/"
    printed = bare(
        "etcd", "grant", "--zone-id", 3, "--print", "--json", "--prefix", hostile, "--user", "o'neil",
        "--password-file", tmp_path / "p w",
    ).json  # fmt: skip

    words = [shlex.split(command) for command in printed["commands"]]
    assert words[0] == ["etcdctl", "role", "add", f"{hostile}zone/3"]
    assert words[4] == ["etcdctl", "user", "add", "o'neil", "--interactive=false", "<", str(tmp_path / "p w")]


def test_nobody_there_is_said_in_one_sentence(bare: Fedmarket) -> None:
    ran = bare("etcd", "grant", "--zone-id", 3, "--endpoint", "127.0.0.1:1")

    assert ran.status == 6
    assert "127.0.0.1:1" in ran.sentence
    assert "check that it runs" in ran.sentence


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--zone-id", "2147"), "out of range"),
        (("--zone-id", "-1"), "out of range"),
        (("--zone-id", "3", "--prefix", "/fedmarket"), "must begin and end with a slash"),
        (("--zone-id", "3", "--prefix", "fedmarket/"), "must begin and end with a slash"),
        (("--zone-id", "3", "--prefix", "/a\nb/"), "must begin and end with a slash"),
        (("--zone-id", "3", "--user", "root"), "give the zone a user of its own"),
        (("--zone-id", "3", "--user", "a\nb"), "no name of an etcd user"),
        (("--zone-id", "3", "--endpoint", "etcd"), "is not an address"),
        (("--zone-id", "3", "--cert", "a"), "--cert and --key go together"),
        (("--zone-id", "3", "--cert", "a", "--key", "b"), "needs --ca"),
        (("--zone-id", "3", "--ca", "missing"), "cannot be used"),
        (("--zone-id", "3", "--root-user", "root"), "--root-user and --root-password-file go together"),
        (("--zone-id", "3", "--password-file", "missing"), "cannot be read"),
    ],
)
def test_bad_input_is_refused_before_etcd_is_asked(bare: Fedmarket, options: tuple[str, ...], says: str) -> None:
    ran = bare("etcd", "grant", "--endpoint", "127.0.0.1:1", *options)

    assert (ran.status, says in ran.sentence) == (2, True), ran.sentence


def test_certificates_that_are_none_are_named(bare: Fedmarket, authority: Authority, tmp_path: Path) -> None:
    empty = tmp_path / "empty.crt"
    empty.touch()
    other = Authority(tmp_path / "other")
    ca, cert, key = authority.ca, authority.certificate("root"), authority.key("root")
    for files in ((empty, cert, key), (ca, empty, key), (ca, cert, other.key("ca"))):
        ran = bare("etcd", "grant", "--zone-id", 3, "--ca", files[0], "--cert", files[1], "--key", files[2])
        assert ran.status == 2
        assert str(files[1]) in ran.sentence
        assert "give files in PEM" in ran.sentence


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [("s3cret", 0o640, "chmod 600"), ("", 0o600, "on one line"), ("s3cret\nmore", 0o600, "on one line")],
)
def test_a_password_file_that_will_not_do_is_refused_without_showing_it(
    bare: Fedmarket, tmp_path: Path, text: str, mode: int, says: str
) -> None:
    file = secret(tmp_path / "password", text, mode)
    ran = bare("etcd", "grant", "--zone-id", 3, "--root-user", "root", "--root-password-file", file)

    assert (ran.status, says in ran.sentence) == (2, True)
    assert "s3cret" not in ran.sentence


def test_a_password_never_goes_to_another_machine_as_clear_text(bare: Fedmarket, tmp_path: Path) -> None:
    file = secret(tmp_path / "password")
    for option in (("--root-user", "root", "--root-password-file", file), ("--password-file", file)):
        ran = bare("etcd", "grant", "--zone-id", 3, "--endpoint", "192.0.2.1:2379", *option)
        assert (ran.status, "clear text" in ran.sentence) == (2, True)


@pytest.mark.parametrize("version", ["3.4.44", "3.5.30", "3.5.31-rc.1", "3.6.11", "3.7.0", "4.0.0"])
def test_versions_that_enforce_permissions_everywhere(version: str) -> None:
    assert grants.is_enforced(version)


@pytest.mark.parametrize("version", ["3.3.99", "3.4.23", "3.4.43", "3.5.29", "3.6.10", "2.9.99", "unknown", ""])
def test_versions_that_do_not_or_are_not_known_to(version: str) -> None:
    assert not grants.is_enforced(version)
