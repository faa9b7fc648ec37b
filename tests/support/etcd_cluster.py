"""A real etcd of three members, as zones would share it: TLS, client certificates, members that may be broken."""

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.etcd.client import EtcdClient, Settings, connect
from fedmarket.pb.etcd import rpc_pb2 as rpc
from tests.support.etcd import EtcdServer, free_port
from tests.support.waiting import BOUND_SECONDS

MEMBERS = ("m1", "m2", "m3")


class Authority:
    """A certificate authority in a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("test authority")
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        builder = self._builder(self._name, self._key.public_key()).add_extension(constraints, critical=True)
        self._write("ca", builder, self._key)

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    def certificate(self, file: str) -> Path:
        return self.directory / f"{file}.crt"

    def key(self, file: str) -> Path:
        return self.directory / f"{file}.key"

    def issue_server(self) -> None:
        """Write a certificate for members. etcd's own gateway shows it too: without a common name it is no user."""
        self._issue("server", x509.Name([]))

    def issue_user(self, user: str) -> None:
        """Write a certificate that makes its holder `user` to etcd."""
        self._issue(user, _name(user))

    def credentials(self, user: str) -> grpc.ChannelCredentials:
        """Return what a client that is `user` connects with."""
        key, chain = self.key(user).read_bytes(), self.certificate(user).read_bytes()
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), key, chain)

    def _issue(self, file: str, subject: x509.Name) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = self._builder(subject, key.public_key())
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not list(subject))
        self._write(file, builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False), key)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(issuer_name=self._name, subject_name=subject, public_key=key)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))

    def _write(self, file: str, builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> None:
        signed = builder.sign(self._key, hashes.SHA256())
        self.certificate(file).write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        kind, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self.key(file).write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, plain))


class Member(EtcdServer):
    """One of several: it serves when a majority of them runs."""

    def spawn(self) -> None:
        """Start it, and do not wait."""
        self._spawn()

    def wait(self) -> None:
        """Wait until it serves."""
        self._wait_until_ready()


class EtcdCluster:
    """Three members below `directory`. Each of `users` has a certificate of `authority`."""

    def __init__(self, directory: Path, users: Iterable[str], version: str = "") -> None:
        self.authority = Authority(directory / "authority")
        self.authority.issue_server()
        for user in users:
            self.authority.issue_user(user)
        peers = {name: f"https://127.0.0.1:{free_port()}" for name in MEMBERS}
        shared = [
            f"--initial-cluster={','.join(f'{name}={url}' for name, url in peers.items())}",
            f"--initial-cluster-token={directory}",
            *self._tls(),
        ]
        self.members = [
            # Of a flag that is given twice etcd takes the last: these override what a single EtcdServer says.
            Member(
                directory / name,
                f"--name={name}",
                f"--listen-peer-urls={url}",
                f"--initial-advertise-peer-urls={url}",
                *shared,
                scheme="https",
                version=version,
            )
            for name, url in peers.items()
        ]

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def start(self) -> None:
        """Start all members at once, and wait until each serves."""
        for member in self.members:
            member.spawn()
        for member in self.members:
            member.wait()

    def stop(self) -> None:
        for member in self.members:
            member.stop()

    @asynccontextmanager
    async def client(
        self, user: str, settings: Settings | None = None, members: Iterable[Member] = ()
    ) -> AsyncGenerator[EtcdClient, None]:
        """Connect as `user` to all members, or to those given."""
        credentials = self.authority.credentials(user)
        endpoints = [member.endpoint for member in members or self.members]
        async with connect(endpoints, settings or Settings(), credentials=credentials) as client:
            yield client

    async def by_rank(self, user: str) -> list[Member]:
        """Return the members, the leader last. All of them must run."""
        async with asyncio.timeout(BOUND_SECONDS):
            while True:
                told = [await self._status(member, user) for member in self.members]
                leaders = {status.leader for status in told}
                if len(leaders) == 1 and 0 not in leaders:
                    break
                await asyncio.sleep(0.05)
        leads = {member: status.header.member_id in leaders for member, status in zip(self.members, told, strict=True)}
        return sorted(self.members, key=lambda member: leads[member])

    async def _status(self, member: Member, user: str) -> rpc.StatusResponse:
        async with self.client(user, members=[member]) as client:
            return await client.status()

    def _tls(self) -> list[str]:
        ca, certificate, key = self.authority.ca, self.authority.certificate("server"), self.authority.key("server")
        return [
            "--client-cert-auth",
            f"--trusted-ca-file={ca}",
            f"--cert-file={certificate}",
            f"--key-file={key}",
            "--peer-client-cert-auth",
            f"--peer-trusted-ca-file={ca}",
            f"--peer-cert-file={certificate}",
            f"--peer-key-file={key}",
        ]


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
