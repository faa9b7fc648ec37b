"""What of zone.toml a running agent takes up on reload: the table of rules, and where the zone tells that it is."""

from collections.abc import Collection, Mapping
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.metadata import version

from drivers.datastore.convert import ConvertSettings
from federation.link.link import Link
from fedmarket.pb.fedmarket.v1.record_pb2 import ZoneRecord
from fedmarket.threads import in_thread
from zone_agent.address import Address
from zone_agent.certificates import Certificate, ClientTls, GrpcTls, HttpTls
from zone_agent.config import Config
from zone_agent.config.schema import LogSettings, Timeouts
from zone_agent.faces.native.server import Services
from zone_agent.identity.credentials import Credentials
from zone_agent.peers import Peers, PeerTimeouts
from zone_agent.reload import NeedsRestart, Rule, Values
from zone_agent.services.locate import Locator
from zone_agent.telemetry.logs import configure
from zone_agent.transfer.settings import TransferSettings

CREDENTIALS, DATASTORES = "[auth] credentials", "[[datastore]]"
ADDRESS = "[[peers]] address of zone {}"
TIMES = ("peer_call_seconds", "connect_seconds", "convert_seconds", "url_lifetime_seconds")
"""The times that are read on use."""


class Reach:
    """Where clients and other zones are told that they reach this zone."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ports = (0, 0, 0)

    def bound(self, http: int, grpc: int, peer: int) -> None:
        """Note the ports that were bound."""
        self._ports = (http, grpc, peer)

    def tell(self, http_url: str, grpc: Address | None, peer: Address | None) -> None:
        """Tell this from now on: the URL of the HTTP port, the addresses of the others; empty: as they were bound."""
        now = self._config
        self._config = replace(
            now,
            http=replace(now.http, url=http_url),
            grpc=replace(now.grpc, advertise=grpc),
            peer=replace(now.peer, advertise=peer),
        )

    @property
    def http_url(self) -> str:
        """The URL of the HTTP port."""
        return self._config.http.public_url(self._ports[0])

    def record(self) -> ZoneRecord:
        """Return what the zone says of itself in its federated record."""
        _, grpc, peer = self._ports
        return ZoneRecord(
            name=self._config.zone.name,
            grpc_endpoint=str(self._config.grpc.public_address(grpc)),
            http_endpoint=self.http_url,
            peer_endpoint=str(self._config.peer.public_address(peer)),
            version=version("fedmarket"),
        )


def peer_timeouts(times: Timeouts) -> PeerTimeouts:
    """Return the bounds of calls to other zones."""
    return PeerTimeouts(times.peer_call_seconds, times.connect_seconds, times.beat_seconds * times.beats_missed)


def transfer_limits(times: Timeouts) -> tuple[TransferSettings, ConvertSettings]:
    """Return the limits of what brings an app into a datastore."""
    return (
        TransferSettings(connect_seconds=times.connect_seconds, idle_seconds=times.transfer_idle_seconds),
        ConvertSettings(timeout=times.convert_seconds),
    )


@dataclass(frozen=True, slots=True)
class Running:
    """The parts of an agent that take new settings while they run."""

    credentials: Credentials
    tls: ClientTls
    peers: Peers
    links: Mapping[int, Link]
    locator: Locator
    services: Services
    reach: Reach


def rules(agent: Running, started: Config) -> tuple[Rule, ...]:
    """Return how each setting that can be changed while the agent runs is changed; all others need a restart."""
    zone, followed = started.zone.id, agent.links.keys()
    return (
        # Files may have changed since they were read at the start: what was read then is what holds.
        Rule({CREDENTIALS: copy(agent.credentials)}, partial(_credentials, zone), partial(_let_in, agent.credentials)),
        _tls("http", agent.tls.http),
        _tls("grpc", agent.tls.grpc),
        Rule(_datastores(started), _datastores, partial(_reconcile, agent)),
        Rule(_addresses(followed, started), partial(_addresses, followed), partial(_dial, agent)),
        Rule(_times(started), _times, partial(_limit, agent, started.timeouts)),
        Rule(_advertised(started), _advertised, partial(_tell, agent)),
        Rule(_logging(started), _logging, _log),
    )


def _credentials(zone: int, config: Config) -> Values:
    return {CREDENTIALS: Credentials.load(zone, config.auth.credentials)}


async def _let_in(running: Credentials, values: Values) -> None:
    running.replace(values[CREDENTIALS])


def _tls(table: str, running: HttpTls | GrpcTls | None) -> Rule:
    held = _of(table, running.certificate if running else None)
    return Rule(held, partial(_certificate, table), partial(_serve, running))


def _certificate(table: str, config: Config) -> Values:
    return _of(table, Certificate.of(getattr(config, table), table))


def _of(table: str, certificate: Certificate | None) -> Values:
    return {f"[{table}] tls_cert": certificate, f"[{table}] tls_key": certificate}


async def _serve(running: HttpTls | GrpcTls | None, values: Values) -> None:
    certificate, _ = values.values()
    if running is None or certificate is None:
        raise NeedsRestart  # a port speaks TLS or plaintext for as long as it is open
    await in_thread(partial(running.use, certificate))


def _datastores(config: Config) -> Values:
    return {DATASTORES: config.datastores}


async def _reconcile(agent: Running, values: Values) -> None:
    await agent.services.datastores.reconcile(values[DATASTORES], agent.credentials.admin)


def _addresses(followed: Collection[int], config: Config) -> Values:
    """Return the addresses of the peers that are followed: one that is added or removed needs a restart."""
    return {ADDRESS.format(peer.id): str(peer.address) for peer in config.peers if peer.id in followed}


async def _dial(agent: Running, values: Values) -> None:
    for zone, link in agent.links.items():
        address = values.get(ADDRESS.format(zone))
        if address is not None and address != agent.peers.address(zone):
            agent.services.zones.readdress(zone, address)
            link.redial()  # it comes to that while the old connection is being closed, and finds the new address
            await agent.peers.move(zone, address)


def _times(config: Config) -> Values:
    return {f"[timeouts] {name}": getattr(config.timeouts, name) for name in TIMES}


async def _limit(agent: Running, started: Timeouts, values: Values) -> None:
    times = replace(started, **{name: values[f"[timeouts] {name}"] for name in TIMES})
    agent.peers.limit(peer_timeouts(times))
    agent.services.exports.limit(*transfer_limits(times))
    agent.locator.limit(times.url_lifetime_seconds)


def _advertised(config: Config) -> Values:
    return {
        "[http] url": config.http.url,
        "[grpc] advertise": config.grpc.advertise,
        "[peer] advertise": config.peer.advertise,
    }


def _logging(config: Config) -> Values:
    return {f"[log] {field.name}": getattr(config.log, field.name) for field in fields(config.log)}


async def _log(values: Values) -> None:
    configure(LogSettings(**{name.removeprefix("[log] "): value for name, value in values.items()}))


async def _tell(agent: Running, values: Values) -> None:
    agent.reach.tell(*values.values())
    await agent.services.zones.publish(agent.reach.record())
