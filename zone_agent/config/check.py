"""What the settings of a zone must fulfil beyond their types: names, keys, addresses, and what they mean together."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from federation.trust.keys import PublicKey
from fedmarket.errors import BadInput
from fedmarket.names import check_name
from zone_agent.address import Address
from zone_agent.config.schema import (
    DatastoreSettings,
    EtcdSettings,
    GrpcSettings,
    HttpSettings,
    Listener,
    PeerZone,
    Timeouts,
    ZoneSettings,
)
from zone_agent.config.source import Place, Problem, Source


@dataclass(frozen=True, slots=True)
class Parts:
    """The tables of a zone.toml that were understood, each by itself."""

    tables: Mapping[str, Any]
    """The single tables, by name."""
    datastores: Mapping[int, DatastoreSettings]
    """By their place in the file, as are the peers."""
    peers: Mapping[int, PeerZone]


def check(parts: Parts, source: Source) -> Iterator[Problem]:
    """Yield what does not hold in the tables that were understood."""
    checks: Mapping[str, Callable[[Any, Source], Iterator[Problem]]] = {
        "zone": _check_zone,
        "etcd": _check_etcd,
        "http": _check_http,
        "grpc": _check_grpc,
        "peer": lambda peer, source: _check_advertised(peer.advertise, "peer", source),
        "timeouts": _check_timeouts,
    }
    for name, table in parts.tables.items():
        if name in checks:
            yield from checks[name](table, source)
    yield from _check_datastores(parts.datastores, source)
    yield from _check_peers(parts.peers, parts.tables.get("zone"), source)


def _check_zone(zone: ZoneSettings, source: Source) -> Iterator[Problem]:
    yield from refused(partial(check_name, zone.name, "zone"), Place("zone", "name"), source)


def _check_etcd(etcd: EtcdSettings, source: Source) -> Iterator[Problem]:
    place = Place("etcd", "endpoints")
    if etcd.embedded and etcd.endpoints:
        yield source.problem(place, "goes with embedded = false: say that, or remove the endpoints")
    if not etcd.embedded and not etcd.endpoints:
        yield source.problem(place, "is missing: give the etcd's addresses, or say embedded = true")
    for endpoint in etcd.endpoints:
        yield from refused(partial(Address.parse, endpoint), place, source)
    if not etcd.binary:
        yield source.problem(Place("etcd", "binary"), "is empty: give the path of the etcd program, or remove the line")
    if not (etcd.prefix.startswith("/") and etcd.prefix.endswith("/") and etcd.prefix.isprintable()):
        yield source.problem(Place("etcd", "prefix"), "must begin and end with a slash, as /fedmarket/1/ does")
    yield from _check_etcd_access(etcd, source)


def _check_etcd_access(etcd: EtcdSettings, source: Source) -> Iterator[Problem]:
    given = etcd.external
    for key, value in given.items():
        if etcd.embedded:
            yield source.problem(
                Place("etcd", key), "is for an etcd that runs elsewhere: remove it, or say embedded = false"
            )
        elif isinstance(value, Path) and not value.is_file():
            yield source.problem(Place("etcd", key), f"names {value}, which is no file: correct the path")
    if etcd.embedded:
        return
    for key in etcd.embedded_only:
        yield source.problem(Place("etcd", key), "is for an embedded etcd: set it where that etcd runs, not here")
    for key, other in (
        ("tls_cert", "tls_key"),
        ("tls_key", "tls_cert"),
        ("user", "password_file"),
        ("password_file", "user"),
        ("tls_cert", "tls_ca"),
        ("tls_server_name", "tls_ca"),
    ):
        if key in given and other not in given:
            yield source.problem(Place("etcd", other), f"is missing: {key} needs it")
    for address in _addresses(etcd.endpoints):
        if "user" in given and "tls_ca" not in given and not address.is_loopback:
            yield source.problem(
                Place("etcd", "user"),
                f"would send its password to {address} as clear text: set tls_ca, so that TLS is used",
            )


def _addresses(texts: Iterable[str]) -> Iterator[Address]:
    for text in texts:
        try:
            yield Address.parse(text)
        except BadInput:
            continue  # said already


def _check_http(http: HttpSettings, source: Source) -> Iterator[Problem]:
    yield from _check_listener(http, "http", source)
    if http.url and not _is_usable(http.url):
        yield source.problem(
            Place("http", "url"), "is not a usable URL: give http://HOST:PORT or https://HOST:PORT, a path may follow"
        )


def _check_grpc(grpc: GrpcSettings, source: Source) -> Iterator[Problem]:
    yield from _check_listener(grpc, "grpc", source)
    yield from _check_advertised(grpc.advertise, "grpc", source)


def _check_listener(listener: Listener, table: str, source: Source) -> Iterator[Problem]:
    if (listener.tls_cert is None) != (listener.tls_key is None):
        lacks = "tls_key" if listener.tls_key is None else "tls_cert"
        yield source.problem(Place(table, lacks), "is missing: TLS needs both tls_cert and tls_key")
    for key, file in (("tls_cert", listener.tls_cert), ("tls_key", listener.tls_key)):
        if file is not None and not file.is_file():
            yield source.problem(Place(table, key), f"names {file}, which is no file: correct the path")
    if listener.tls and listener.plaintext:
        yield source.problem(Place(table, "plaintext"), "contradicts tls_cert: keep one of them")
    if not (listener.listen.is_loopback or listener.tls or listener.plaintext):
        yield source.problem(
            Place(table, "listen"),
            f"is {listener.listen}, which other machines can reach: set tls_cert and tls_key, or listen at 127.0.0.1, "
            "or say plaintext = true if the network is trusted",
        )


def _is_usable(text: str) -> bool:
    try:
        url = urlsplit(text)
        sound = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        return False
    return sound and not (url.query or url.fragment or url.username or url.password)


def _check_advertised(address: Address | None, table: str, source: Source) -> Iterator[Problem]:
    if address is not None and (address.is_wildcard or address.port == 0):
        yield source.problem(
            Place(table, "advertise"), f"is {address}, which nobody can dial: give a host and its port"
        )


def _check_datastores(datastores: Mapping[int, DatastoreSettings], source: Source) -> Iterator[Problem]:
    for index, datastore in datastores.items():
        yield from refused(partial(check_name, datastore.name, "datastore"), Place("datastore", "name", index), source)
    for index in _repeated({index: datastore.name for index, datastore in datastores.items()}):
        yield source.problem(
            Place("datastore", "name", index),
            f"is {datastores[index].name!r} as of another datastore: rename one of them",
        )
    for index in _repeated({index: datastore.path.resolve() for index, datastore in datastores.items()}):
        yield source.problem(
            Place("datastore", "path", index), "is the directory of another datastore too: give each its own"
        )


def _check_peers(peers: Mapping[int, PeerZone], zone: ZoneSettings | None, source: Source) -> Iterator[Problem]:
    for index, peer in peers.items():
        if zone is not None and peer.id == zone.id:
            yield source.problem(
                Place("peers", "id", index), f"is {peer.id}, this zone's own id: give every zone an id of its own"
            )
        if peer.address.is_wildcard or peer.address.port == 0:
            yield source.problem(
                Place("peers", "address", index), f"is {peer.address}, which cannot be dialled: give its host and port"
            )
        yield from refused(partial(PublicKey.parse, peer.key), Place("peers", "key", index), source)
    for index in _repeated({index: peer.id for index, peer in peers.items()}):
        yield source.problem(
            Place("peers", "id", index), f"is {peers[index].id} as of another peer: remove one of the two tables"
        )
    for index in _repeated({index: peer.key for index, peer in peers.items()}):
        yield source.problem(Place("peers", "key", index), "is the key of another peer too: every zone has its own key")


def _check_timeouts(times: Timeouts, source: Source) -> Iterator[Problem]:
    ordered = (
        ("backoff_first_seconds", "backoff_max_seconds", "or tries would come faster than the first"),
        ("etcd_call_seconds", "etcd_start_seconds", "or one slow call would use up the start"),
        ("transfer_idle_seconds", "url_lifetime_seconds", "or a stalled read could not be resumed by its URL"),
    )
    for short, long, reason in ordered:
        if getattr(times, short) > getattr(times, long):
            yield source.problem(
                Place("timeouts", short), f"must not be longer than {long}, {reason}: change one of them"
            )


def refused(accept: Callable[[], object], place: Place, source: Source) -> Iterator[Problem]:
    """Yield the problem of a value that `accept` refuses with BadInput."""
    try:
        accept()
    except BadInput as problem:
        yield source.problem(place, f"does not hold: {problem.message}")


def _repeated(values: Mapping[int, object]) -> Iterator[int]:
    """Yield the index of each value that was there before."""
    seen: set[object] = set()
    for index, value in values.items():
        if value in seen:
            yield index
        seen.add(value)
