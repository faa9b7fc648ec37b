"""An etcd with TLS, client certificates and access control: what a zone may do in an etcd that it shares."""

import base64
import ipaddress
import json
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.etcd.client import Settings, connect
from federation.etcd.ranges import below
from federation.etcd.store import EtcdStore
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import Denied
from tests.support.etcd import EtcdServer

OWN, SHARED, FOREIGN = "/fedmarket/1/catalog/0/", "/fedmarket/1/catalog/", "/fedmarket/1/zone/100/"


class Authority:
    """A certificate authority in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self._write("ca", certificate, self._key)

    def issue(self, file: str, user: str | None = None, address: str = "127.0.0.1") -> None:
        """Write a certificate for servers, or for `user`, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        # etcd's own gateway uses the server's certificate: without a common name it is no user.
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, user)] if user else []
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        names = [x509.IPAddress(ipaddress.ip_address(address)), x509.DNSName("etcd.example")]
        certificate = (
            self._builder(x509.Name(attributes), key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=not attributes)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self._write(file, certificate, key)

    def credentials(self, user: str | None) -> grpc.ChannelCredentials:
        """Return what a client needs that trusts this authority and, if `user`, shows that user's certificate."""
        chain = (self.directory / f"{user}.crt").read_bytes() if user else None
        key = (self.directory / f"{user}.key").read_bytes() if user else None
        return grpc.ssl_channel_credentials((self.directory / "ca.crt").read_bytes(), key, chain)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )

    def _write(self, file: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        (self.directory / f"{file}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (self.directory / f"{file}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    authority.issue("server")
    for user in ("root", "zone-0"):
        authority.issue(user, user=user)
    return authority


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """An etcd in which zone-0 may write its own catalog and read all catalogs."""
    pem = authority.directory
    server = EtcdServer(
        tmp_path_factory.mktemp("etcd"),
        "--client-cert-auth",
        f"--trusted-ca-file={pem}/ca.crt",
        f"--cert-file={pem}/server.crt",
        f"--key-file={pem}/server.key",
        scheme="https",
    )
    server.start()
    try:
        gateway = Gateway(server, authority)
        for user in ("root", "zone-0"):
            gateway.post("user/add", name=user, options={"no_password": True})
        gateway.post("role/add", name="zone-0")
        gateway.permit("zone-0", "READWRITE", OWN)
        gateway.permit("zone-0", "READ", SHARED)
        for user in ("root", "zone-0"):
            gateway.post("user/grant", user=user, role=user)
        gateway.post("enable")
        yield server
    finally:
        server.stop()


class Gateway:
    """etcd's HTTP gateway, which knows the calls about users and roles that our client has no use for."""

    def __init__(self, server: EtcdServer, authority: Authority) -> None:
        pem = authority.directory
        self._url = f"https://{server.endpoint}/v3/auth/"
        self._context = ssl.create_default_context(cafile=str(pem / "ca.crt"))
        self._context.load_cert_chain(pem / "root.crt", pem / "root.key")

    def post(self, call: str, **fields: Any) -> None:
        data = json.dumps(fields).encode()
        with urllib.request.urlopen(self._url + call, data, timeout=30, context=self._context):
            pass

    def permit(self, role: str, kind: str, prefix: str) -> None:
        key, end = (base64.b64encode(part).decode() for part in below(prefix))
        self.post("role/grant", name=role, perm={"permType": kind, "key": key, "range_end": end})


async def test_a_zone_writes_and_watches_its_own_catalog(server: EtcdServer, authority: Authority) -> None:
    async with connect([server.endpoint], credentials=authority.credentials("zone-0")) as client:
        store = EtcdStore(client)
        result = await store.txn(Txn({}, puts={OWN + "head": b"v"}))
        assert [item.key for item in (await store.snapshot(SHARED)).items] == [OWN + "head"]
        async with aclosing(store.watch(SHARED, result.revision)) as watch:
            assert (await anext(watch)).changes[0].key == OWN + "head"


async def test_a_zone_is_denied_what_belongs_to_others(server: EtcdServer, authority: Authority) -> None:
    async with connect([server.endpoint], credentials=authority.credentials("zone-0")) as client:
        store = EtcdStore(client)
        with pytest.raises(Denied):
            await store.get(FOREIGN + "secret")
        with pytest.raises(Denied):
            await store.snapshot(FOREIGN)
        with pytest.raises(Denied):
            await store.txn(Txn({}, puts={OWN + "mine": b"v", FOREIGN + "theirs": b"v"}))
        assert await store.get(OWN + "mine") is None
        async with aclosing(store.watch(FOREIGN, 1)) as watch:
            with pytest.raises(Denied):
                await anext(watch)


async def test_a_client_without_a_certificate_is_told_that_etcd_does_not_answer(
    server: EtcdServer, authority: Authority
) -> None:
    with pytest.raises(StoreUnavailable):
        async with connect([server.endpoint], Settings(call_seconds=2.0), credentials=authority.credentials(None)):
            pass


async def test_a_server_of_another_authority_is_not_trusted(server: EtcdServer, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    other.issue("zone-0", user="zone-0")
    with pytest.raises(StoreUnavailable):
        async with connect([server.endpoint], Settings(call_seconds=2.0), credentials=other.credentials("zone-0")):
            pass


async def test_several_endpoints_share_the_name_in_their_certificates(server: EtcdServer, authority: Authority) -> None:
    endpoints = [server.endpoint, f"localhost:{server.port}"]
    credentials = authority.credentials("zone-0")
    async with connect(endpoints, credentials=credentials, server_name="etcd.example") as client:
        assert await EtcdStore(client).get(OWN + "missing") is None


async def test_a_certificate_for_another_name_is_not_trusted(server: EtcdServer, authority: Authority) -> None:
    credentials = authority.credentials("zone-0")
    with pytest.raises(StoreUnavailable):
        async with connect(
            [server.endpoint], Settings(call_seconds=2.0), credentials=credentials, server_name="other.example"
        ):
            pass
