"""Opening a catalog that this zone writes: whether the store is ours, and the one that we left."""

import logging

from federation.commit import Origin, seal_tree
from federation.epoch import seal_epoch
from federation.head import Head, SealedHead, unseal_bytes
from federation.highwater import HighWater, Mark
from federation.keys import HEAD, Keyspace
from federation.store import Store, Txn
from federation.stored import read_stored
from federation.tree import Tree
from fedmarket.errors import ConfigError, Corrupt, Denied

log = logging.getLogger(__name__)


async def claim_etcd(store: Store, keyspace: Keyspace, *, embedded: bool) -> None:
    """Mark an embedded etcd as this zone's own, and refuse one that is another zone's child process.

    Where an external etcd lets this zone not even see whose it is, its access control is on (`fedmarket etcd grant`):
    nobody embeds that one. Raises ConfigError.
    """
    me = str(keyspace.zone).encode()
    try:
        found = await store.get(keyspace.owner)
    except Denied:
        if embedded:
            raise
        return
    if found is not None and found.value != me:
        raise ConfigError(
            f"this etcd belongs to zone {found.value.decode(errors='replace')}, whose agent runs it as its own: "
            f"give zone {keyspace.zone} an etcd of its own, or one that no agent embeds, in [etcd]"
        )
    if embedded and found is None:
        await store.txn(Txn({keyspace.owner: 0}, puts={keyspace.owner: me}))
    elif not embedded and found is not None:
        await store.txn(Txn({keyspace.owner: found.mod_revision}, deletes=[keyspace.owner]))


async def open_catalog(store: Store, origin: Origin, high_water: HighWater, time_ms: int) -> Head:
    """Return the head of our own catalog, having written it if need be: epoch 1, or the epoch after a restore.

    Raises ConfigError if the store holds another zone's catalog, or lost ours.
    """
    at_head = origin.prefix + HEAD
    stored = await store.get(at_head)
    mark = high_water.mark(origin.catalog)
    if stored is None:
        if mark is not None:
            raise ConfigError(
                f"etcd holds nothing at {origin.prefix}, but this zone is known to have reached commit "
                f"{mark.epoch}/{mark.seq}: put etcd's data back, get the catalog from a peer with "
                "`fedmarket zone restore`, or go on without it with `fedmarket zone init --new-epoch`"
            )
        head = seal_tree(origin, (1, 1), None, Tree.empty(), {}, time_ms)
        return await _put_head(store, at_head, 0, head)
    try:
        head = unseal_bytes(stored.value, origin.key.public)
    except Corrupt as error:
        raise ConfigError(
            f"etcd holds a catalog of zone {origin.zone} that another key has signed: "
            f"choose another zone id, or another etcd, in zone.toml ({error.message})"
        ) from error
    if mark is None or mark.pair <= head.pair:
        return head.head
    return await _new_epoch(store, origin, head, stored.mod_revision, mark, time_ms)


async def _new_epoch(store: Store, origin: Origin, stored: SealedHead, revision: int, mark: Mark, time_ms: int) -> Head:
    """Go on in a new epoch on a store that was put back from a backup."""
    tree = (await read_stored(store, origin.prefix)).tree
    if not stored.describes(tree):
        raise ConfigError(
            f"what was put back at {origin.prefix} does not match its own signed head: put back another backup "
            "of etcd, or empty it and see `fedmarket zone restore`"
        )
    head = seal_epoch(origin, stored, tree, [mark], time_ms)
    log.warning(
        "%s is older than commit %s that this zone had reached: epoch %d begins", origin.prefix, mark.pair, head.pair[0]
    )
    return await _put_head(store, origin.prefix + HEAD, revision, head)


async def _put_head(store: Store, at_head: str, seen: int, head: SealedHead) -> Head:
    result = await store.txn(Txn({at_head: seen}, puts={at_head: head.encode()}))
    if not result.succeeded:
        raise ConfigError("another agent of this zone is opening the same store: start this one again")
    return head.head
