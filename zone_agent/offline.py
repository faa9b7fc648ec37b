"""What is done to a zone whose agent is stopped: begin a new epoch, or restore its catalog, in its own etcd."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from federation.commit import Origin
from federation.epoch import Known, seal_epoch
from federation.head import FEDERATION, PRIVATE, CatalogId, Pair, SealedHead, unseal_bytes
from federation.highwater import HighWater
from federation.keys import Keyspace
from federation.recall import Copy, from_bytes, gather
from federation.store import Lease, Store, Txn
from federation.stored import Stored, read_stored, rewrite
from federation.tree import Tree
from federation.trust.keys import PublicKey, ZoneKey
from federation.trust.tls import Identity
from fedmarket.errors import BadInput, ConfigError, Corrupt, NotFound, Refused
from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead
from zone_agent.config import Config
from zone_agent.core import LEASE_SECONDS
from zone_agent.etcd import open_etcd
from zone_agent.peers import Peers, PeerTimeouts
from zone_agent.recall import Recaller

DUTY = "maintenance"
"""What whoever works on a stopped zone says that it does, so that no two do."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """How one catalog goes on."""

    catalog: CatalogId
    before: Pair
    """The commit that the zone is known to have reached."""
    head: SealedHead
    """The first of the new epoch."""

    @property
    def sentence(self) -> str:
        """What has happened, for people."""
        if self.catalog == FEDERATION:
            what, lost = "federated catalog", ""
        else:
            what, lost = "private catalog", ": images, datastores and markets of this zone only are unknown"
        count = self.head.head.count
        return (
            f"The {what} had reached commit {_text(self.before)}; epoch {self.head.head.epoch} begins with "
            f"{count} record{'' if count == 1 else 's'}{'' if count else lost}."
        )


@dataclass(frozen=True, slots=True)
class _Catalog:
    """One of the two catalogs that a zone writes, as it is stored."""

    origin: Origin
    stored: Stored
    head: SealedHead | None
    """The stored head, if there is one that this zone signed."""
    known: tuple[Known, ...]
    """What tells how far the zone has come; empty: it never committed anything."""

    @property
    def whole(self) -> bool:
        """Whether the records are those of the stored head."""
        return self.head is not None and self.head.describes(self.stored.tree)


class StoppedZone:
    """A zone that no agent works on. Whatever is interrupted can be asked for again."""

    def __init__(
        self, keyspace: Keyspace, key: ZoneKey, store: Store, high_water: HighWater, guards: Mapping[str, int]
    ) -> None:
        self._keyspace = keyspace
        self._key = key
        self._store = store
        self._high_water = high_water
        self._guards = guards
        """Keys and their revisions, which show that nobody else works on the zone."""

    async def begin_epochs(self) -> list[Epoch]:
        """Begin a new epoch of each catalog, over what is stored: nothing, or what its head says.

        Returns none where the zone never committed anything. Raises Refused if what is stored is neither.
        """
        catalogs = [await self._read(kind) for kind in (PRIVATE, FEDERATION)]
        for catalog in catalogs:
            if catalog.stored.head is not None and not catalog.whole:
                raise Refused(
                    f"the records at {catalog.origin.prefix} are not those of their signed head: start the agent and "
                    "run `fedmarket zone repair`, or see `fedmarket zone restore --help`"
                )
        return [
            await self._begin(catalog, catalog.head, catalog.stored.tree if catalog.head else Tree.empty())
            for catalog in catalogs
            if catalog.known
        ]

    async def restore(self, copy: Copy) -> list[Epoch]:
        """Write a copy of the federated catalog, and begin a new epoch over it.

        The private catalog, of which nobody has a copy, begins anew if it was lost: first, because a federated catalog
        that is there means that all is. Raises Refused if what is stored is not older than the copy.
        """
        private, federated = await self._read(PRIVATE), await self._read(FEDERATION)
        stored = federated.head
        if stored is not None and (stored.pair > copy.head.pair or (stored.pair == copy.head.pair and federated.whole)):
            raise Refused(
                f"etcd holds commit {_text(stored.pair)} of this zone, and the copy is of {_text(copy.head.pair)}, "
                "which is not newer: start the agent, or delete etcd's data first if you want the copy all the same"
            )
        lost_private = private.stored.head is None and bool(private.known)
        epochs = [await self._begin(private, None, Tree.empty())] if lost_private else []
        return [*epochs, await self._begin(federated, copy.head, copy.tree)]

    async def _read(self, kind: CatalogId) -> _Catalog:
        prefix = self._keyspace.own if kind == FEDERATION else self._keyspace.private
        agent = f"{socket.gethostname()}/{os.getpid()}/{DUTY}"
        origin = Origin(self._keyspace.zone, kind, prefix, self._key, agent)
        stored = await read_stored(self._store, prefix)
        head = _unseal(origin, stored)
        known: list[Known | None] = [self._high_water.mark(kind), head.head if head else None]
        return _Catalog(origin, stored, head, tuple(one for one in known if one is not None))

    async def _begin(self, catalog: _Catalog, base: SealedHead | None, tree: Tree) -> Epoch:
        """Store `tree` with the first head of a new epoch, which follows `base`."""
        known = [*catalog.known, *([base.head] if base else [])]
        sealed = seal_epoch(catalog.origin, base, tree, known, int(time.time() * 1000))
        await rewrite(self._store, catalog.origin, catalog.stored, tree, sealed, self._guards)
        self._high_water.note(sealed.head)
        await self._high_water.flush()
        return Epoch(catalog.origin.catalog, max(one.pair for one in known), sealed)


@asynccontextmanager
async def open_stopped(config: Config, *, force: bool) -> AsyncGenerator[StoppedZone, None]:
    """Open the etcd of a zone whose agent is stopped, and keep others from it while the context is open.

    Raises ConfigError if its agent runs the etcd, Refused if an agent elsewhere holds duties and `force` is not given.
    """
    key = ZoneKey.load(config.layout.key)
    high_water = HighWater(config.layout.high_water)
    keyspace = Keyspace(config.etcd.prefix, config.zone.id)
    async with open_etcd(config, keyspace) as etcd:
        if not (config.etcd.embedded or force):
            await _refuse_agents(etcd.store, keyspace)
        async with etcd.store.lease(LEASE_SECONDS) as lease:
            guards = await _claim(etcd.store, keyspace, lease)
            yield StoppedZone(keyspace, key, etcd.store, high_water, guards)


async def begin_epochs(config: Config, *, force: bool) -> list[Epoch]:
    """Begin new epochs of a stopped zone; see `StoppedZone.begin_epochs`."""
    async with open_stopped(config, force=force) as zone:
        return await zone.begin_epochs()


async def restore(config: Config, source: str, *, force: bool) -> tuple[Copy, list[Epoch]]:
    """Restore a stopped zone from what `source` has; see `fetch_copy` and `StoppedZone.restore`."""
    copy = await fetch_copy(config, source)
    async with open_stopped(config, force=force) as zone:
        return copy, await zone.restore(copy)


async def fetch_copy(config: Config, source: str) -> Copy:
    """Return the copy of this zone's catalog that `source` has: digits are the id of a peer, anything else is a file.

    Raises NotFound if it has none, Unavailable if the peer does not answer, Corrupt if it is not what we signed.
    """
    key = ZoneKey.load(config.layout.key)
    if not (source.isascii() and source.isdigit()):
        content = await asyncio.to_thread(_read, Path(source))
        return await asyncio.to_thread(gather, from_bytes(content), config.zone.id, key.public)
    addresses = {peer.id: str(peer.address) for peer in config.peers}
    if int(source) not in addresses:
        raise NotFound(f"zone {source} is none of the [[peers]] in {config.file}: name one of these, or a file")
    pinned = {peer.id: PublicKey.parse(peer.key) for peer in config.peers}
    timeouts = config.timeouts
    bounds = PeerTimeouts(
        timeouts.peer_call_seconds, timeouts.connect_seconds, timeouts.beat_seconds * timeouts.beats_missed
    )
    peers = Peers(Identity(config.zone.id, key, pinned), addresses, bounds)
    try:
        return await Recaller(config.zone.id, key.public, peers, addresses).of(int(source))
    finally:
        await peers.close()


async def _refuse_agents(store: Store, keyspace: Keyspace) -> None:
    held = await store.snapshot(keyspace.duty(""))
    if held.items:
        agent = held.items[0].value.decode(errors="replace")
        raise Refused(
            f"the agent {agent} of zone {keyspace.zone} is at work: stop it first, or wait {LEASE_SECONDS:g} s if it "
            "was killed, or say --force if it is surely dead"
        )


async def _claim(store: Store, keyspace: Keyspace, lease: Lease) -> dict[str, int]:
    """Say in etcd that this zone is being worked on; what an earlier command left is taken over."""
    key = keyspace.duty(DUTY)
    left = await store.get(key)
    me = f"{socket.gethostname()}/{os.getpid()}".encode()
    result = await store.txn(Txn({key: left.mod_revision if left else 0}, puts={key: me}, lease=lease.id))
    if not result.succeeded:
        raise Refused(f"another command works on zone {keyspace.zone}: wait until it has ended")
    return {key: result.revision}


def _unseal(origin: Origin, stored: Stored) -> SealedHead | None:
    """Return the stored head; None if there is none or it is damaged. Raises ConfigError if it is another key's."""
    if stored.head is None:
        return None
    try:
        return unseal_bytes(stored.head.value, origin.key.public)
    except Corrupt as error:
        if _key_id(stored.head.value) in {b"", origin.key.public.key_id}:
            return None
        raise ConfigError(
            f"etcd holds a catalog of zone {origin.zone} that another key has signed: "
            f"choose another etcd in zone.toml ({error.message})"
        ) from error


def _key_id(head: bytes) -> bytes:
    """Return who says to have signed a head; empty: it cannot be read."""
    try:
        return SignedHead.FromString(head).key_id
    except DecodeError:
        return b""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror}): give a file that `fedmarket zone export` wrote, or a peer's id"
        ) from error


def _text(pair: Pair) -> str:
    return f"{pair[0]}/{pair[1]}"
