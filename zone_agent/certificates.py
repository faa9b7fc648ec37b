"""Certificates that client ports are served with: proven before they count, and renewed under a running server."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc

from fedmarket.errors import ConfigError
from zone_agent.config.schema import Listener


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate chain and its key, both PEM, as the files held them. Two with the same bytes are equal."""

    cert_file: Path
    key_file: Path
    chain: bytes
    key: bytes = field(repr=False)

    @classmethod
    def load(cls, cert_file: Path, key_file: Path, table: str) -> Self:
        """Read the files, and prove that they go together. Blocking. Raises ConfigError, which names the table."""
        try:
            _load_into(_context(), cert_file, key_file)
            return cls(cert_file, key_file, cert_file.read_bytes(), key_file.read_bytes())
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the certificate {cert_file} or its key cannot be used ({error}): see [{table}] in zone.toml"
            ) from error

    @classmethod
    def of(cls, listener: Listener, table: str) -> Self | None:
        """Load what a listener is served with; None: it speaks plaintext. Blocking. Raises ConfigError."""
        if listener.tls_cert is None or listener.tls_key is None:
            return None
        return cls.load(listener.tls_cert, listener.tls_key, table)


class HttpTls:
    """TLS of the HTTP port: one context, into which a renewed certificate is loaded. Open connections stay."""

    def __init__(self, certificate: Certificate) -> None:
        self.context = _context()
        self.use(certificate)

    def use(self, certificate: Certificate) -> None:
        """Serve new connections with another certificate. Blocking."""
        self.certificate = certificate
        _load_into(self.context, certificate.cert_file, certificate.key_file)


class GrpcTls:
    """TLS of the gRPC port: gRPC asks at each new connection for the certificate. Open connections stay."""

    def __init__(self, certificate: Certificate) -> None:
        self.certificate = self._served = certificate

    def use(self, certificate: Certificate) -> None:
        """Serve new connections with another certificate."""
        self.certificate = certificate

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for one listening port."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._served),
            self._renewed,  # type: ignore[arg-type]  # the stubs lack None, which stands for no change
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        # On threads of gRPC's own, and it must not raise: hence one read of what another thread replaces as a whole.
        newest = self.certificate
        if newest is self._served:
            return None
        self._served = newest
        return _configuration(newest)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """TLS of both ports for clients; None: the port speaks plaintext."""

    http: HttpTls | None
    grpc: GrpcTls | None

    @classmethod
    def of(cls, http: Listener, grpc: Listener) -> Self:
        """Load what the ports are served with. Blocking. Raises ConfigError."""
        of_http, of_grpc = Certificate.of(http, "http"), Certificate.of(grpc, "grpc")
        return cls(HttpTls(of_http) if of_http else None, GrpcTls(of_grpc) if of_grpc else None)


def _context() -> ssl.SSLContext:
    return ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)


def _load_into(context: ssl.SSLContext, cert_file: Path, key_file: Path) -> None:
    context.load_cert_chain(cert_file, key_file, password=lambda: "")  # or OpenSSL would ask the terminal for it


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(certificate.key, certificate.chain)])
