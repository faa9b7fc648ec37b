"""What a zone keeps for a while only: records that its peers lost, and what became of their requests."""

import logging
from collections.abc import Callable, Collection

from google.protobuf.message import DecodeError

from federation.expiry import Marks, expire
from federation.keys import LOST, Keyspace
from federation.store import KeyValue, Store
from fedmarket.pb.fedmarket.v1.peer_pb2 import RequestRecord

log = logging.getLogger(__name__)


class Expiry:
    """Deletes what has been kept for long enough."""

    def __init__(self, store: Store, keyspace: Keyspace, peers: Collection[int], clock: Callable[[], float]) -> None:
        self._store = store
        self._keyspace = keyspace
        self._peers = peers
        self._clock = clock
        self._marks = Marks(store, keyspace.marks, clock)

    async def lost(self, seconds: float) -> None:
        """Delete the records that DIFFs removed from the copies of peers longer ago than that."""
        reached = await self._marks.reached(seconds)
        if not reached:
            return
        for peer in self._peers:
            prefix = f"{self._keyspace.replica(peer)}{LOST}/"
            if expired := await expire(self._store, prefix, lambda item: item.mod_revision <= reached):
                log.info("%d lost records of zone %d have expired", expired, peer)

    async def requests(self, seconds: float) -> None:
        """Delete what is noted of requests of longer ago than that; never of one that is being made."""
        limit = self._clock() - seconds
        if expired := await expire(self._store, self._keyspace.requests, lambda item: _was_made_before(item, limit)):
            log.info("what became of %d requests has expired", expired)


def _was_made_before(item: KeyValue, limit: float) -> bool:
    try:
        record = RequestRecord.FromString(item.value)
    except DecodeError:
        return False  # a newer version's, perhaps
    return not record.running and record.time < limit
