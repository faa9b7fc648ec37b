"""What a zone keeps of a peer beside the peer's catalog: records that a DIFF removed; and forgetting it all."""

from collections.abc import Sequence
from dataclasses import dataclass

from federation.keys import HEAD, LOST, Keyspace, parse_record_key
from federation.records import KINDS, decode
from federation.store import Store, Txn
from fedmarket.errors import Corrupt

DELETE_PAGE = 100
"""Keys that one transaction deletes."""


@dataclass(frozen=True, slots=True)
class LostRecord:
    """A record that a DIFF removed from a replica."""

    home: int
    epoch: int
    """Of the head that it belonged to."""
    kind: str
    id: int
    value: bytes
    """As it was stored."""

    @property
    def name(self) -> str:
        """Its name; empty where this version cannot read it."""
        try:
            message = decode(KINDS[self.kind], self.value).message
        except (KeyError, Corrupt):
            return ""
        name: str = getattr(message, "name")  # noqa: B009 -- every kind has one, which its base class cannot say
        return name


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was deleted."""

    keys: int
    revision: int
    """Of the last transaction; 0: there was nothing to delete."""


async def lost_records(store: Store, keyspace: Keyspace, home: int) -> Sequence[LostRecord]:
    """Return what DIFFs removed from the replica of `home`, ascending by epoch, kind and id."""
    prefix = f"{keyspace.replica(home)}{LOST}/"
    snapshot = await store.snapshot(prefix)
    found = []
    for item in snapshot.items:
        epoch, _, key = item.key.removeprefix(prefix).partition("/")
        try:
            kind, record_id = parse_record_key(key)
            found.append(LostRecord(home, int(epoch), kind, record_id, item.value))
        except ValueError:
            continue  # not of ours
    return sorted(found, key=lambda lost: (lost.epoch, lost.kind, lost.id))


async def forget_replica(store: Store, keyspace: Keyspace, home: int) -> Forgotten:
    """Delete all that is stored of the zone `home`, lost records too, in pages.

    The head goes first: an agent that still follows that zone then loses its next write, and no half of a replica is
    ever taken for a whole one. What a crash leaves is deleted by the next call.
    """
    prefix = keyspace.replica(home)
    snapshot = await store.snapshot(prefix)
    keys = sorted((item.key for item in snapshot.items), key=lambda key: key != prefix + HEAD)
    revision = 0
    for start in range(0, len(keys), DELETE_PAGE):
        revision = (await store.txn(Txn({}, deletes=keys[start : start + DELETE_PAGE]))).revision
    return Forgotten(len(keys), revision)
