"""What the settings of a zone must fulfil beyond their types: names, keys, addresses, and what they mean together."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from federation.trust.keys import PublicKey
from fedmarket.names import check_name
from zone_agent.address import Address
from zone_agent.config.schema import Config, EtcdSettings, Listener
from zone_agent.config.source import Place, Source

T = TypeVar("T")


def check(config: Config, source: Source) -> None:
    """Raise ConfigError for the first setting that does not hold; `source` says where it stands."""
    _check_zone(config, source)
    _check_etcd(config, source)
    _check_listener(config.http, "http", source)
    _check_listener(config.grpc, "grpc", source)
    _check_url(config, source)
    _check_advertised(config, source)
    _check_datastores(config, source)
    _check_peers(config, source)
    _check_timeouts(config, source)


def _check_zone(config: Config, source: Source) -> None:
    with source.blame(Place("zone", "name")):
        check_name(config.zone.name, "zone")


def _check_etcd(config: Config, source: Source) -> None:
    etcd = config.etcd
    place = Place("etcd", "endpoints")
    if etcd.embedded and etcd.endpoints:
        raise source.error(place, "goes with embedded = false: say that, or remove the endpoints")
    if not etcd.embedded and not etcd.endpoints:
        raise source.error(place, "is missing: give the etcd's addresses, or say embedded = true")
    with source.blame(place):
        addresses = [Address.parse(endpoint) for endpoint in etcd.endpoints]
    if not etcd.binary:
        raise source.error(Place("etcd", "binary"), "is empty: give the path of the etcd program, or remove the line")
    if not (etcd.prefix.startswith("/") and etcd.prefix.endswith("/") and etcd.prefix.isprintable()):
        raise source.error(Place("etcd", "prefix"), "must begin and end with a slash, as /fedmarket/1/ does")
    _check_etcd_access(etcd, addresses, source)


def _check_etcd_access(etcd: EtcdSettings, addresses: Iterable[Address], source: Source) -> None:
    given = etcd.external
    for key, value in given.items():
        if etcd.embedded:
            raise source.error(
                Place("etcd", key), "is for an etcd that runs elsewhere: remove it, or say embedded = false"
            )
        if isinstance(value, Path) and not value.is_file():
            raise source.error(Place("etcd", key), f"names {value}, which is no file: correct the path")
    for key, other in (
        ("tls_cert", "tls_key"),
        ("tls_key", "tls_cert"),
        ("user", "password_file"),
        ("password_file", "user"),
        ("tls_cert", "tls_ca"),
        ("tls_server_name", "tls_ca"),
    ):
        if key in given and other not in given:
            raise source.error(Place("etcd", other), f"is missing: {key} needs it")
    for address in addresses:
        if "user" in given and "tls_ca" not in given and not address.is_loopback:
            raise source.error(
                Place("etcd", "user"),
                f"would send its password to {address} as clear text: set tls_ca, so that TLS is used",
            )


def _check_listener(listener: Listener, table: str, source: Source) -> None:
    if (listener.tls_cert is None) != (listener.tls_key is None):
        lacks = "tls_key" if listener.tls_key is None else "tls_cert"
        raise source.error(Place(table, lacks), "is missing: TLS needs both tls_cert and tls_key")
    for key, file in (("tls_cert", listener.tls_cert), ("tls_key", listener.tls_key)):
        if file is not None and not file.is_file():
            raise source.error(Place(table, key), f"names {file}, which is no file: correct the path")
    if listener.tls and listener.plaintext:
        raise source.error(Place(table, "plaintext"), "contradicts tls_cert: keep one of them")
    if not (listener.listen.is_loopback or listener.tls or listener.plaintext):
        raise source.error(
            Place(table, "listen"),
            f"is {listener.listen}, which other machines can reach: set tls_cert and tls_key, or listen at 127.0.0.1, "
            "or say plaintext = true if the network is trusted",
        )


def _check_url(config: Config, source: Source) -> None:
    place = Place("http", "url")
    if not config.http.url:
        return
    try:
        url = urlsplit(config.http.url)
        sound = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        sound = False
    else:
        sound = sound and not (url.query or url.fragment or url.username or url.password)
    if not sound:
        raise source.error(place, "is not a usable URL: give http://HOST:PORT or https://HOST:PORT, a path may follow")


def _check_advertised(config: Config, source: Source) -> None:
    for table, address in (("grpc", config.grpc.advertise), ("peer", config.peer.advertise)):
        if address is not None and (address.is_wildcard or address.port == 0):
            raise source.error(
                Place(table, "advertise"), f"is {address}, which nobody can dial: give a host and its port"
            )


def _check_datastores(config: Config, source: Source) -> None:
    for index, datastore in enumerate(config.datastores):
        with source.blame(Place("datastore", "name", index)):
            check_name(datastore.name, "datastore")
    if index := _second(datastore.name for datastore in config.datastores):
        name = config.datastores[index].name
        raise source.error(
            Place("datastore", "name", index), f"is {name!r} as of another datastore: rename one of them"
        )
    if index := _second(datastore.path.resolve() for datastore in config.datastores):
        raise source.error(
            Place("datastore", "path", index), "is the directory of another datastore too: give each its own"
        )


def _check_peers(config: Config, source: Source) -> None:
    for index, peer in enumerate(config.peers):
        if peer.id == config.zone.id:
            raise source.error(
                Place("peers", "id", index), f"is {peer.id}, this zone's own id: give every zone an id of its own"
            )
        if peer.address.is_wildcard or peer.address.port == 0:
            raise source.error(
                Place("peers", "address", index), f"is {peer.address}, which cannot be dialled: give its host and port"
            )
        with source.blame(Place("peers", "key", index)):
            PublicKey.parse(peer.key)
    if index := _second(peer.id for peer in config.peers):
        peer_id = config.peers[index].id
        raise source.error(
            Place("peers", "id", index), f"is {peer_id} as of another peer: remove one of the two tables"
        )
    if index := _second(peer.key for peer in config.peers):
        raise source.error(Place("peers", "key", index), "is the key of another peer too: every zone has its own key")


def _check_timeouts(config: Config, source: Source) -> None:
    times = config.timeouts
    ordered = (
        ("backoff_first_seconds", "backoff_max_seconds", "or tries would come faster than the first"),
        ("etcd_call_seconds", "etcd_start_seconds", "or one slow call would use up the start"),
        ("transfer_idle_seconds", "url_lifetime_seconds", "or a stalled read could not be resumed by its URL"),
    )
    for short, long, reason in ordered:
        if getattr(times, short) > getattr(times, long):
            raise source.error(
                Place("timeouts", short), f"must not be longer than {long}, {reason}: change one of them"
            )


def _second(values: Iterable[T]) -> int:
    """Return the index of the first value that was there before; 0 where all differ."""
    seen: set[T] = set()
    for index, value in enumerate(values):
        if value in seen:
            return index
        seen.add(value)
    return 0
