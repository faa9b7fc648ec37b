"""What the settings name outside zone.toml: files, directories, ports, programs. Looked at, and never changed."""

import errno
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cryptography import x509

from federation.trust.keys import ZoneKey
from fedmarket.errors import BadInput
from zone_agent.access import password_in, tls_credentials
from zone_agent.address import Address
from zone_agent.certificates import Certificate
from zone_agent.config.check import Parts, refused
from zone_agent.config.layout import Layout
from zone_agent.config.schema import AuthSettings, EtcdSettings, Listener
from zone_agent.config.source import Place, Problem, Source
from zone_agent.identity.credentials import Credentials


def check_files(parts: Parts, source: Source) -> Iterator[Problem]:
    """Yield what would keep an agent with these settings from starting. Of tables that do not hold nothing is said."""
    layout = Layout(source.file.parent)
    yield from refused(partial(ZoneKey.load, layout.key), Place("zone", "id"), source)
    auth = parts.tables.get("auth")
    if isinstance(auth, AuthSettings):
        yield from refused(partial(Credentials.load, 0, auth.credentials), Place("auth", "credentials"), source)
    for table in ("http", "grpc"):
        listener = parts.tables.get(table)
        if isinstance(listener, Listener):
            yield from _check_certificate(listener, table, source)
    etcd = parts.tables.get("etcd")
    if isinstance(etcd, EtcdSettings):
        yield from _check_etcd(etcd, layout, source)
    for directory in (layout.state, layout.markets):
        yield from _check_directory(directory, Place("zone"), source)
    for index, datastore in parts.datastores.items():
        yield from _check_directory(datastore.path, Place("datastore", "path", index), source)


def _check_certificate(listener: Listener, table: str, source: Source) -> Iterator[Problem]:
    cert, key = listener.tls_cert, listener.tls_key
    if cert is None or key is None or not (cert.is_file() and key.is_file()):
        return  # said already
    place = Place(table, "tls_cert")
    try:
        certificate = Certificate.load(cert, key, table)
        leaf = x509.load_pem_x509_certificates(certificate.chain)[0]
    except (BadInput, ValueError) as problem:
        yield source.problem(place, f"does not hold: {problem}")
        return
    now = datetime.now(UTC)
    if now > leaf.not_valid_after_utc:
        yield source.problem(place, f"names {cert}, which ended at {leaf.not_valid_after_utc:%F %T} UTC: renew it")
    if now < leaf.not_valid_before_utc:
        yield source.problem(place, f"names {cert}, which begins at {leaf.not_valid_before_utc:%F %T} UTC only")
    if stat.S_IMODE(key.stat().st_mode) & 0o007:
        yield source.problem(
            Place(table, "tls_key"), f"names {key}, which everybody on this machine can read: run chmod o= {key}"
        )


def _check_etcd(etcd: EtcdSettings, layout: Layout, source: Source) -> Iterator[Problem]:
    if etcd.embedded:
        if etcd.binary and shutil.which(etcd.binary) is None:
            yield source.problem(
                Place("etcd", "binary"), f"is {etcd.binary}, which is not found: install etcd, or give its path"
            )
        yield from _check_directory(layout.etcd, Place("etcd", "embedded"), source)
        return
    if etcd.tls_ca is not None and all(file is None or file.is_file() for file in (etcd.tls_cert, etcd.tls_key)):
        read = partial(tls_credentials, etcd.tls_ca, etcd.tls_cert, etcd.tls_key, "see [etcd]")
        yield from refused(read, Place("etcd", "tls_ca"), source)
    if etcd.password_file is not None and etcd.password_file.is_file():
        yield from refused(partial(password_in, etcd.password_file), Place("etcd", "password_file"), source)


def _check_directory(directory: Path, place: Place, source: Source) -> Iterator[Problem]:
    """Yield what keeps a directory from being used, or from being made where it is not there yet."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    if not there.is_dir():
        yield source.problem(place, f"needs the directory {directory}, but {there} is none: correct the path")
    elif not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        yield source.problem(place, f"needs the directory {directory}, but {there} cannot be written: change its mode")


def check_ports(parts: Parts, source: Source) -> Iterator[Problem]:
    """Yield the ports that an agent could not listen at, if it were started now."""
    for table in ("http", "grpc", "peer"):
        if table in parts.tables:
            address: Address = parts.tables[table].listen
            if problem := _listening_problem(address):
                yield source.problem(Place(table, "listen"), f"is {address}, {problem}")


def _listening_problem(address: Address) -> str:
    """Return what keeps an agent from listening at an address; empty: nothing does."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        return f"and that host is not found ({error.strerror}): correct the name"
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: what an ended agent has left in TIME_WAIT is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(where)
                probe.listen()
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return "where something listens already: stop it, or choose another port"
                return f"where nobody can listen ({error.strerror}): choose an address of this machine"
    return ""
