"""[etcd] of zone.toml, as the agent uses it: TLS, certificates, user and password of an etcd that runs elsewhere."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from federation.etcd.client import connect
from federation.keys import Keyspace
from federation.store import StoreUnavailable
from fedmarket.errors import ConfigError, Denied, FedmarketError
from tests.support.etcd import EtcdFactory, EtcdServer
from tests.support.etcd_cluster import Authority
from tests.support.etcd_users import ROOT, ZONE, add_role, add_user, enable, let_in, permit, wall
from tests.support.stores import put
from zone_agent.config import Config, load
from zone_agent.etcd import open_etcd

PREFIX = "/fedmarket/1/"


def configure(tmp_path: Path, server: EtcdServer, **settings: str) -> Config:
    """Write a zone.toml that says where etcd is, and these settings of [etcd]."""
    lines = [f'{key} = "{value}"' for key, value in settings.items()]
    lines += ["embedded = false", f'endpoints = ["{server.endpoint}"]']
    file = tmp_path / "zone.toml"
    file.write_text(
        '[zone]\nid = 7\nname = "seven"\n[etcd]\n' + "\n".join(lines) + "\n[timeouts]\netcd_call_seconds = 2\n"
    )
    return load(file)


def secret(tmp_path: Path, text: str, mode: int = 0o600) -> str:
    """Write a password file; return what zone.toml calls it."""
    file = tmp_path / "etcd.password"
    file.write_text(text)
    file.chmod(mode)
    return file.name


async def use(config: Config) -> None:
    async with open_etcd(config, Keyspace(PREFIX, 7)) as etcd:
        await put(etcd.store, PREFIX + "zone/7/a")


async def refused(config: Config) -> FedmarketError:
    with pytest.raises(FedmarketError) as raised:
        await use(config)
    assert "\n" not in raised.value.message
    return raised.value


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "authority")
    authority.issue_server()
    for user in ("root", "zone-7"):
        authority.issue_user(user)
    return authority


@pytest.fixture
async def tls_server(authority: Authority, tmp_path: Path) -> AsyncIterator[EtcdServer]:
    """An etcd that wants certificates of its authority."""
    server = EtcdServer(
        tmp_path / "etcd",
        f"--trusted-ca-file={authority.ca}",
        f"--cert-file={authority.certificate('server')}",
        f"--key-file={authority.key('server')}",
        "--client-cert-auth",
        scheme="https",
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def walled(tls_server: EtcdServer, authority: Authority) -> EtcdServer:
    """Its users are known by certificate (zone-7) or by password (zone)."""
    async with connect([tls_server.endpoint], credentials=authority.credentials("root")) as client:
        await add_user(client, "root")
        await add_user(client, "zone-7")
        await add_user(client, ZONE.user, ZONE.password)
        await add_role(client, "zone")
        await permit(client, PREFIX)
        for user in ("zone-7", "zone"):
            await let_in(client, user)
        await enable(client)
    return tls_server


CERTIFICATE = {"tls_cert": "authority/zone-7.crt", "tls_key": "authority/zone-7.key"}


async def test_a_certificate_says_who_the_agent_is(walled: EtcdServer, tmp_path: Path) -> None:
    await use(configure(tmp_path, walled, tls_ca="authority/ca.crt", **CERTIFICATE))
    await use(configure(tmp_path, walled, tls_ca="authority/ca.crt", tls_server_name="127.0.0.1", **CERTIFICATE))


async def test_a_members_certificate_must_bear_the_name(walled: EtcdServer, tmp_path: Path) -> None:
    config = configure(tmp_path, walled, tls_ca="authority/ca.crt", tls_server_name="other.example", **CERTIFICATE)
    assert isinstance(await refused(config), StoreUnavailable)


async def test_user_and_password_go_before_the_certificates_name(
    walled: EtcdServer, authority: Authority, tmp_path: Path
) -> None:
    authority.issue_user("nobody-in-particular")
    stranger = {"tls_cert": "authority/nobody-in-particular.crt", "tls_key": "authority/nobody-in-particular.key"}
    password = secret(tmp_path, ZONE.password + "\n")
    await use(configure(tmp_path, walled, tls_ca="authority/ca.crt", user="zone", password_file=password, **stranger))
    error = await refused(configure(tmp_path, walled, tls_ca="authority/ca.crt", **stranger))
    assert isinstance(error, Denied)


async def test_on_this_machine_a_password_needs_no_tls(etcd_factory: EtcdFactory, tmp_path: Path) -> None:
    server = etcd_factory()
    await wall(server)
    await use(configure(tmp_path, server, user=ROOT.user, password_file=secret(tmp_path, ROOT.password)))
    wrong = configure(tmp_path, server, user=ROOT.user, password_file=secret(tmp_path, "wrong-password"))
    error = await refused(wrong)
    assert isinstance(error, Denied)
    assert "password_file" in error.message
    assert "wrong-password" not in error.message


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("secret", 0o640, "can be read by others: run chmod 600"),
        ("", 0o600, "does not hold a password on one line"),
        ("\n", 0o600, "does not hold a password on one line"),
        ("two\nlines\n", 0o600, "does not hold a password on one line"),
    ],
)
async def test_a_password_file_is_for_its_owner_and_holds_one_line(
    etcd_server: EtcdServer, tmp_path: Path, text: str, mode: int, says: str
) -> None:
    error = await refused(configure(tmp_path, etcd_server, user="a", password_file=secret(tmp_path, text, mode)))
    assert isinstance(error, ConfigError)
    assert says in error.message
    assert str(tmp_path / "etcd.password") in error.message
    assert "secret" not in error.message


@pytest.mark.parametrize(
    "files",
    [
        {"tls_ca": "zone.toml"},
        {"tls_ca": "authority/ca.crt", "tls_cert": "authority/zone-7.crt", "tls_key": "authority/root.key"},
        {"tls_ca": "authority/ca.crt", "tls_cert": "authority/zone-7.key", "tls_key": "authority/zone-7.key"},
        {"tls_ca": "authority/ca.crt", "tls_cert": "authority/zone-7.crt", "tls_key": "authority/locked.key"},
    ],
    ids=["no certificate", "another key", "a key as certificate", "a key with a passphrase"],
)
async def test_files_that_are_no_certificates_are_refused_at_the_start(
    etcd_server: EtcdServer, authority: Authority, tmp_path: Path, files: dict[str, str]
) -> None:
    lock(authority.key("zone-7"), authority.key("locked"))
    (tmp_path / "zone.toml").touch()
    error = await refused(configure(tmp_path, etcd_server, **files))
    assert isinstance(error, ConfigError)
    assert "the certificates for etcd cannot be used" in error.message


def lock(key: Path, to: Path) -> None:
    """Write a private key anew, so that it needs a passphrase."""
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    kind, locked = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"passphrase")
    to.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, kind, locked))
