"""An agent's own federation: its etcd, its catalogs and who writes them."""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from federation.catalog import Catalog
from federation.commit import Origin
from federation.head import FEDERATION, PRIVATE, Pair
from federation.highwater import HighWater
from federation.keys import Keyspace
from federation.link.direct import Direct, DirectSettings, Newest
from federation.link.ring import Ring
from federation.opening import open_catalog
from federation.restore import Restorer
from federation.store import Store
from federation.trust.keys import PublicKey, ZoneKey
from federation.view import View
from federation.writer import Writer, WriterSettings
from fedmarket.errors import Timeout
from zone_agent.config import Config, PeerZone
from zone_agent.duties import Duties
from zone_agent.etcd import OpenEtcd, open_etcd
from zone_agent.services.catalogs import Catalogs
from zone_agent.services.forwarding import WaitVisible
from zone_agent.supervise import Part, running
from zone_agent.upkeep.alarms import Alarms

log = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
"""After this long without its agent, what an agent said that it does is free for another."""


@dataclass(frozen=True, slots=True)
class Core:
    """What the rest of an agent stands on."""

    key: ZoneKey
    keyspace: Keyspace
    store: Store
    catalogs: Catalogs
    ring: Ring
    replicas: dict[int, Catalog]
    direct: dict[int, Direct]
    duties: Duties
    restorer: Restorer
    catch_up_seconds: float
    wait_visible: WaitVisible
    etcd: OpenEtcd
    alarms: Alarms


@asynccontextmanager
async def open_core(config: Config) -> AsyncGenerator[Core, None]:
    """Open this zone's etcd and catalogs, and keep them in step while the context is open.

    Raises ConfigError if etcd is not this zone's, or lost what it held, and Unavailable if it does not answer.
    """
    key = ZoneKey.load(config.layout.key)
    high_water = HighWater(config.layout.high_water)
    keyspace = Keyspace(config.etcd.prefix, config.zone.id)
    # Unique also where a container gives every agent the same process id: what it holds in etcd bears this name.
    agent = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        parts: dict[str, Part] = {"high-water mark": high_water.run}
        alarms = Alarms()
        etcd = await stack.enter_async_context(open_etcd(config, keyspace, alarms))
        store = etcd.store
        parts["etcd's health"] = etcd.health.run
        if etcd.keep is not None:
            parts["etcd"] = etcd.keep

        own = Catalog(config.zone.id, keyspace.own, key.public, own=True)
        private = Catalog(config.zone.id, keyspace.private, key.public, own=True)
        ring = Ring()
        own.listen(ring.publish)
        writers = {}
        for catalog, kind in ((own, FEDERATION), (private, PRIVATE)):
            origin = Origin(config.zone.id, kind, catalog.prefix, key, agent, keyspace.requests)
            await open_catalog(store, origin, high_water, int(time.time() * 1000))
            catalog.listen(lambda publication: high_water.note(publication.state.head.head))
            writers[kind] = Writer(store, catalog, origin, WriterSettings())
            parts[f"watch of {catalog.prefix}"] = _bind_follow(catalog, store)
            parts[f"writer of {catalog.prefix}"] = writers[kind].run
        replicas = {peer.id: _replica(keyspace, peer.id, peer.key) for peer in config.peers}
        parts |= {f"watch of {replica.prefix}": _bind_follow(replica, store) for replica in replicas.values()}
        direct = {peer.id: _direct(keyspace, peer, store, replicas[peer.id]) for peer in config.peers}
        parts |= {f"watch of {one.catalog.prefix}": one.run for one in direct.values()}

        newest = Newest(replicas, direct)
        catalogs = Catalogs(View(own, private, newest), writers[FEDERATION], writers[PRIVATE])
        duties = Duties(store, keyspace, agent, LEASE_SECONDS, check_seconds=1.0)
        if config.etcd.embedded:
            await duties.clear()  # nobody else is in this etcd, so whoever held them is dead
        parts["lease"] = duties.run
        idle = config.timeouts.idle_commit_seconds
        parts["duty head"] = lambda: _keep_head(own, writers[FEDERATION], duties, idle)
        await stack.enter_async_context(running(parts, config.backoff))
        for catalog in (own, private):  # one that is at fault is read, too, but nothing of it is ever published
            await _listed(catalog, config.timeouts.etcd_start_seconds)
        visible = config.timeouts.visible_seconds

        async def wait_visible(zone: int, pair: Pair) -> None:
            await newest.wait_for(zone, pair, visible)

        restorer = Restorer(store, own, writers[FEDERATION], [writers[PRIVATE]], key.public, visible)
        yield Core(
            key,
            keyspace,
            store,
            catalogs,
            ring,
            replicas,
            direct,
            duties,
            restorer,
            visible,
            wait_visible,
            etcd,
            alarms,
        )


def _replica(keyspace: Keyspace, peer: int, key: str) -> Catalog:
    return Catalog(peer, keyspace.replica(peer), PublicKey.parse(key), own=False)


def _direct(keyspace: Keyspace, peer: PeerZone, store: Store, replica: Catalog) -> Direct:
    return Direct(keyspace, peer.id, PublicKey.parse(peer.key), store, replica, DirectSettings())


async def _listed(catalog: Catalog, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await catalog.wait_listed()
    except TimeoutError as error:
        raise Timeout(
            f"etcd did not list {catalog.prefix} within {seconds:g} s: look at its log, or allow more in [timeouts] "
            "etcd_start_seconds"
        ) from error


def _bind_follow(catalog: Catalog, store: Store) -> Part:
    return lambda: catalog.follow(store)


async def _keep_head(own: Catalog, writer: Writer, duties: Duties, idle_seconds: float) -> None:
    """Sign the head anew whenever this zone was idle, as the one agent whose duty that is."""
    while True:
        mine = await duties.try_claim("head")
        before = own.pair
        await asyncio.sleep(idle_seconds)
        if mine and own.pair == before and not (own.fault or own.barred):
            await writer.beat()
