"""The composition root: one agent, from its configuration to its open ports."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

import aiohttp

from federation.head import FEDERATION, PRIVATE
from federation.link.follow import Follower, FollowSettings
from federation.link.link import Dial, Link, LinkSettings
from federation.link.serve import ServeSettings
from federation.requests import Requests
from federation.scrub import Scrubber, Subject
from federation.trust.keys import PublicKey
from federation.trust.tls import Identity
from fedmarket.errors import Refused
from fedmarket.retry import Backoff
from zone_agent.certificates import ClientTls
from zone_agent.config import Config
from zone_agent.core import LEASE_SECONDS, Core, open_core
from zone_agent.faces.http import HttpFace, HttpFaceSettings
from zone_agent.faces.native.project import Projector
from zone_agent.faces.native.server import NativeFace, Services
from zone_agent.faces.peer import PeerFace
from zone_agent.identity.credentials import Credentials
from zone_agent.jobs import JobBook, Jobs
from zone_agent.notify import notify
from zone_agent.peers import Peers
from zone_agent.presence import present
from zone_agent.recall import repairers
from zone_agent.reload import Reloader
from zone_agent.reloadable import Reach, Running, peer_timeouts, rules, transfer_limits
from zone_agent.services.apps import AppService
from zone_agent.services.changes import ChangeService
from zone_agent.services.clones import CloneService
from zone_agent.services.datastores import DatastoreService
from zone_agent.services.downloads import DownloadService
from zone_agent.services.exports import ExportService
from zone_agent.services.federation import FederationService, FederationSettings
from zone_agent.services.forwarding import Forwarder
from zone_agent.services.images import ImageService
from zone_agent.services.jobs import JobService, JobServiceSettings
from zone_agent.services.locate import Locator
from zone_agent.services.markets import MarketService
from zone_agent.services.monitor import Monitor
from zone_agent.services.mover import Mover
from zone_agent.services.once import Once
from zone_agent.services.recovery import Recovery
from zone_agent.services.zones import Pinned, ZoneService
from zone_agent.stores import Stores
from zone_agent.supervise import Part, only_error, running
from zone_agent.telemetry.agent import metrics_pusher
from zone_agent.telemetry.live import Live, Who, measure_commits
from zone_agent.telemetry.scrape import Scrape
from zone_agent.transfer.signing import UrlSigner
from zone_agent.transfer.worker.pool import Workers
from zone_agent.upkeep.tasks import upkeep

log = logging.getLogger(__name__)

THREADS = 64
"""For whatever blocks: bytes that are copied must never keep a directory from being looked at."""
RECOVERY_SECONDS = 2 * LEASE_SECONDS
"""How often an agent looks for what agents that died left behind: an agent that lives renews its lease meanwhile."""

URL_SECRET = b"fedmarket/url/1"
"""What the secret that signs blob URLs is derived for, so that all agents of a zone have the same one."""


async def run(config: Config) -> None:
    """Run the agent of a zone until SIGTERM or SIGINT; SIGHUP reloads. Raises FedmarketError if it cannot start."""
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="work"))
    for number, event in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, reload)):
        loop.add_signal_handler(number, event.set)
    try:
        async with (
            open_agent(config) as reloader,
            running({"reload": lambda: reloader.run(reload)}, config.backoff),
            _present(config),
        ):
            log.info("zone %d (%s) is open", config.zone.id, config.zone.name)
            notify("READY=1")
            await stop.wait()
            log.info("stopping")
            notify("STOPPING=1")
    except BaseExceptionGroup as group:
        raise only_error(group) from None


@asynccontextmanager
async def open_agent(config: Config) -> AsyncGenerator[Reloader, None]:
    """Open everything an agent is, and give what reloads its settings. What is opened last is closed first."""
    credentials = Credentials.load(config.zone.id, config.auth.credentials)
    tls, reach, timeouts = ClientTls.of(config.http, config.grpc), Reach(config), config.timeouts
    async with open_core(config) as core, _session() as session, Workers() as workers:
        pinned = {peer.id: PublicKey.parse(peer.key) for peer in config.peers}
        identity = Identity(config.zone.id, core.key, pinned)
        addresses = {peer.id: str(peer.address) for peer in config.peers}
        peers = Peers(identity, addresses, peer_timeouts(timeouts))
        links = _links(config, core, peers, timeouts.beat_seconds * timeouts.beats_missed)

        stores = Stores(config.zone.id, config.layout)
        signer = UrlSigner(core.key.derive(URL_SECRET), time.time)
        locator = Locator(
            core.catalogs.view,
            stores,
            peers,
            signer,
            lambda: reach.http_url,
            timeouts.url_lifetime_seconds,
        )
        services = _services(config, core, stores, locator, session, workers, peers, links)
        who = Who(config.zone.name, version("fedmarket"))
        live = Live(who, core.catalogs.view, links, core.etcd.health, core.alarms, services.running)
        measure_commits(core.catalogs)
        http = HttpFace(
            config.http.listen,
            signer,
            locator.path,
            tls=tls.http.context if tls.http else None,
            metrics=Scrape(live).answer if config.http.metrics else None,
            settings=HttpFaceSettings(shutdown_seconds=timeouts.shutdown_seconds),
        )
        native = NativeFace(
            services,
            Projector(core.catalogs.view),
            credentials,
            config.grpc,
            grace=timeouts.shutdown_seconds,
            idle_seconds=timeouts.transfer_idle_seconds,
            tls=tls.grpc,
        )
        view = core.catalogs.view
        serving = ServeSettings(beat_seconds=timeouts.beat_seconds)
        peer_face = PeerFace(
            identity, view.own, core.ring, view.replicas, locator, services.changes, core.restorer.show, serving
        )

        await _unless_refused(services.datastores.reconcile(config.datastores, credentials.admin))
        recovery = Recovery(
            core.catalogs,
            stores,
            services.running,
            services.images,
            services.apps.upload,
            services.downloads,
            core.duties,
            RECOVERY_SECONDS,
        )
        await recovery.look(alone=config.etcd.embedded)
        parts: dict[str, Part] = {"jobs": services.running.run, "recovery": recovery.run}
        parts["duty scrub"] = services.federation.run
        parts["duty monitor"] = Monitor(services.markets, core.duties, timeouts.monitor_seconds).run
        if (push := metrics_pusher(config, live)) is not None:
            parts["metrics"] = push
        parts["upkeep"] = upkeep(config, core, services.jobs).run
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
                reach.bound(http.port, grpc_port, peer_port)
                await _unless_refused(services.zones.publish(reach.record()))
                taking = Running(credentials, tls, peers, links, locator, services, reach)
                yield Reloader(config, rules(taking, config))
        finally:
            await peers.close()


def _services(
    config: Config,
    core: Core,
    stores: Stores,
    locator: Locator,
    session: aiohttp.ClientSession,
    workers: Workers,
    peers: Peers,
    links: dict[int, Link],
) -> Services:
    timeouts = config.timeouts
    book = JobBook(core.store, core.keyspace)
    jobs = Jobs(core.duties, book)
    requests = Requests(core.store, core.keyspace)
    images = ImageService(core.catalogs, stores, jobs, requests)
    transfer, conversion = transfer_limits(timeouts)
    mover = Mover(workers, transfer, conversion)
    keeping = JobServiceSettings(keep_days=config.jobs.keep_days, keep=config.jobs.keep)
    pinned = {peer.id: Pinned(str(peer.address), peer.key) for peer in config.peers}
    statuses = {zone: link.status for zone, link in links.items()}
    zones = ZoneService(core.catalogs, str(core.key.public), pinned, statuses, repairers(core, peers, pinned))
    scrubbing = FederationSettings(scrub_seconds=timeouts.scrub_seconds, catch_up_seconds=core.catch_up_seconds)
    markets = MarketService(core.catalogs, stores, timeouts.measure_seconds)
    apps = AppService(core.catalogs, stores, jobs, images, mover, requests)
    forwarder = Forwarder(
        peers, core.catalogs.called, core.wait_visible, timeouts.forward_seconds, Backoff(longest_seconds=1.0)
    )
    once = Once(requests, core.catch_up_seconds)
    return Services(
        zones=zones,
        markets=markets,
        apps=apps,
        changes=ChangeService(core.catalogs, once, forwarder, markets, apps, images),
        exports=ExportService(core.catalogs, jobs, images, locator, mover, session, transfer),
        images=images,
        datastores=DatastoreService(core.catalogs, stores),
        clones=CloneService(core.catalogs, jobs, images, mover),
        downloads=DownloadService(core.catalogs.view, jobs, locator, mover, config.jobs.downloads),
        running=jobs,
        jobs=JobService(jobs, book, keeping),
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
            core.alarms.current,
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


@asynccontextmanager
async def _present(config: Config) -> AsyncGenerator[None, None]:
    """Be found as the agent of this zone.toml, which is open by now."""
    with present(config.file):
        yield


@asynccontextmanager
async def _session() -> AsyncGenerator[aiohttp.ClientSession, None]:
    """Open the HTTP client that bytes are fetched with: it sends no cookies and no credentials of its own."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session
