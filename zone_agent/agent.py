"""The composition root: one agent, from its configuration to its open ports."""

import asyncio
import logging
import signal
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

import aiohttp

from drivers.datastore.convert import ConvertSettings
from federation.head import FEDERATION, PRIVATE
from federation.link.follow import Follower, FollowSettings
from federation.link.link import Dial, Link, LinkSettings
from federation.link.serve import ServeSettings
from federation.scrub import Scrubber, Subject
from federation.trust.keys import PublicKey
from federation.trust.tls import Identity
from fedmarket.errors import ConfigError, Refused
from fedmarket.pb.fedmarket.v1.record_pb2 import ZoneRecord
from zone_agent.config import Config, HttpSettings
from zone_agent.core import LEASE_SECONDS, Core, open_core
from zone_agent.faces.http import HttpFace, HttpFaceSettings
from zone_agent.faces.native.project import Projector
from zone_agent.faces.native.server import NativeFace, Services
from zone_agent.faces.peer import PeerFace
from zone_agent.identity.credentials import Credentials
from zone_agent.jobs import Jobs
from zone_agent.peers import Peers, PeerTimeouts
from zone_agent.recall import repairers
from zone_agent.services.apps import AppService
from zone_agent.services.datastores import DatastoreService
from zone_agent.services.exports import ExportService
from zone_agent.services.federation import FederationService, FederationSettings
from zone_agent.services.images import ImageService
from zone_agent.services.locate import Locator
from zone_agent.services.markets import MarketService
from zone_agent.services.recovery import Recovery
from zone_agent.services.zones import Pinned, ZoneService
from zone_agent.stores import Stores
from zone_agent.supervise import Part, only_error, running
from zone_agent.transfer.settings import TransferSettings
from zone_agent.transfer.signing import UrlSigner

log = logging.getLogger(__name__)

THREADS = 64
"""For whatever blocks: bytes that are copied must never keep a directory from being looked at."""
RECOVERY_SECONDS = 2 * LEASE_SECONDS
"""How often an agent looks for what agents that died left behind: an agent that lives renews its lease meanwhile."""

URL_SECRET = b"fedmarket/url/1"
"""What the secret that signs blob URLs is derived for, so that all agents of a zone have the same one."""


async def run(config: Config) -> None:
    """Run the agent of a zone until SIGTERM or SIGINT. Raises FedmarketError if it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="work"))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with open_agent(config):
            log.info("zone %d (%s) is open", config.zone.id, config.zone.name)
            await stop.wait()
            log.info("stopping")
    except BaseExceptionGroup as group:
        raise only_error(group) from None


@asynccontextmanager
async def open_agent(config: Config) -> AsyncGenerator[None, None]:
    """Open everything an agent is: what is opened last is closed first."""
    credentials = Credentials.load(config.zone.id, config.auth.credentials)
    timeouts = config.timeouts
    async with open_core(config) as core, _session() as session:
        pinned = {peer.id: PublicKey.parse(peer.key) for peer in config.peers}
        identity = Identity(config.zone.id, core.key, pinned)
        addresses = {peer.id: str(peer.address) for peer in config.peers}
        silence = timeouts.beat_seconds * timeouts.beats_missed
        peers = Peers(identity, addresses, PeerTimeouts(timeouts.peer_call_seconds, timeouts.connect_seconds, silence))
        links = _links(config, core, peers, silence)

        stores = Stores(config.zone.id, config.layout)
        signer = UrlSigner(core.key.derive(URL_SECRET), time.time)
        locator = Locator(
            core.catalogs.view,
            stores,
            peers,
            signer,
            lambda: config.http.public_url(http.port),
            timeouts.url_lifetime_seconds,
        )
        services = _services(config, core, stores, locator, session, peers, links)
        http = HttpFace(
            config.http.listen,
            signer,
            locator.path,
            tls=_tls(config.http),
            settings=HttpFaceSettings(shutdown_seconds=timeouts.shutdown_seconds),
        )
        native = NativeFace(
            services,
            Projector(core.catalogs.view),
            credentials,
            config.grpc,
            grace=timeouts.shutdown_seconds,
            idle_seconds=timeouts.transfer_idle_seconds,
        )
        view = core.catalogs.view
        serving = ServeSettings(beat_seconds=timeouts.beat_seconds)
        peer_face = PeerFace(identity, view.own, core.ring, view.replicas, locator, core.restorer.show, serving)

        await _unless_refused(services.datastores.reconcile(config.datastores, credentials.admin))
        recovery = Recovery(core.catalogs, stores, services.images, core.duties, RECOVERY_SECONDS)
        await recovery.look(alone=config.etcd.embedded)
        parts: dict[str, Part] = {"jobs": services.jobs.run, "recovery": recovery.run}
        parts["duty scrub"] = services.federation.run
        following = {f"link to zone {zone}": link.run for zone, link in links.items()}
        try:
            async with (
                http,
                peer_face.serve(config.peer) as peer_port,
                running(following, config.backoff),
                _looked_around(links, timeouts.peer_look_seconds),
                native.serve() as grpc_port,
                # Ended first: jobs that are cancelled end the calls that watch them.
                running(parts, config.backoff),
            ):
                url = config.http.public_url(http.port)
                await _unless_refused(services.zones.publish(_zone_record(config, url, grpc_port, peer_port)))
                yield
        finally:
            await peers.close()


def _services(
    config: Config,
    core: Core,
    stores: Stores,
    locator: Locator,
    session: aiohttp.ClientSession,
    peers: Peers,
    links: dict[int, Link],
) -> Services:
    timeouts = config.timeouts
    jobs = Jobs(core.duties)
    images = ImageService(core.catalogs, stores, jobs)
    transfer = TransferSettings(connect_seconds=timeouts.connect_seconds, idle_seconds=timeouts.transfer_idle_seconds)
    conversion = ConvertSettings(timeout=timeouts.convert_seconds)
    pinned = {peer.id: Pinned(str(peer.address), peer.key) for peer in config.peers}
    statuses = {zone: link.status for zone, link in links.items()}
    zones = ZoneService(core.catalogs, str(core.key.public), pinned, statuses, repairers(core, peers, pinned))
    scrubbing = FederationSettings(scrub_seconds=timeouts.scrub_seconds, catch_up_seconds=core.catch_up_seconds)
    return Services(
        zones=zones,
        markets=MarketService(core.catalogs, stores),
        apps=AppService(core.catalogs, stores, jobs, images),
        exports=ExportService(core.catalogs, stores, jobs, images, locator, session, transfer, conversion),
        images=images,
        datastores=DatastoreService(core.catalogs, stores),
        jobs=jobs,
        federation=FederationService(
            core.catalogs,
            zones,
            links,
            core.replicas,
            _scrubber(config, core),
            core.store,
            core.keyspace,
            core.duties,
            scrubbing,
        ),
    )


def _scrubber(config: Config, core: Core) -> Scrubber:
    view, key = core.catalogs.view, core.key.public
    pinned = {peer.id: PublicKey.parse(peer.key) for peer in config.peers}

    def subjects() -> list[Subject]:
        found = [Subject(view.own, FEDERATION, key), Subject(view.private, PRIVATE, key)]
        for peer, pin in pinned.items():
            catalog = view.replicas[peer]
            found.append(Subject(catalog, FEDERATION, pin, direct=catalog is not core.replicas[peer]))
        return found

    return Scrubber(core.store, subjects, core.catch_up_seconds)


def _links(config: Config, core: Core, peers: Peers, silence: float) -> dict[int, Link]:
    settings = FollowSettings(silence_seconds=silence, catch_up_seconds=core.catch_up_seconds, backoff=config.backoff)
    replicas, witness = core.replicas, core.restorer.show
    links = {}
    for peer in config.peers:
        key = PublicKey.parse(peer.key)
        follower = Follower(core.keyspace, peer.id, key, core.store, replicas[peer.id], witness, settings)
        dial, settings_of_link = _dialler(peers, peer.id), LinkSettings(backoff=config.backoff)
        links[peer.id] = Link(follower, core.direct[peer.id], dial, settings_of_link)
    return links


@asynccontextmanager
async def _looked_around(links: Mapping[int, Link], seconds: float) -> AsyncGenerator[None, None]:
    """Let the peers show what they hold of this zone before it is written: it may prove that etcd was put back."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            for link in links.values():
                await link.tried.wait()
    yield


async def _unless_refused(change: Awaitable[None]) -> None:
    """Make a change that every start makes; a catalog at fault refuses it, until a person repairs it by this agent."""
    try:
        await change
    except Refused as error:
        log.error("%s", error.message)


def _dialler(peers: Peers, zone: int) -> Dial:
    return lambda: peers.follow(zone)


def _zone_record(config: Config, http_url: str, grpc_port: int, peer_port: int) -> ZoneRecord:
    return ZoneRecord(
        name=config.zone.name,
        grpc_endpoint=str(config.grpc.public_address(grpc_port)),
        http_endpoint=http_url,
        peer_endpoint=str(config.peer.public_address(peer_port)),
        version=version("fedmarket"),
    )


@asynccontextmanager
async def _session() -> AsyncGenerator[aiohttp.ClientSession, None]:
    """Open the HTTP client that bytes are fetched with: it sends no cookies and no credentials of its own."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


def _tls(settings: HttpSettings) -> ssl.SSLContext | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the certificate {settings.tls_cert} or its key cannot be used ({error}): see [http] in zone.toml"
        ) from error
    return context
