"""Evidence that this zone's store was put back, or that the zone was cloned: a head of ours that the store lacks.

Peers show us the newest head of ours that they hold. One that we signed and do not know was committed by a store that
is no longer ours, so a new epoch begins. A lagging view proves nothing: the store is read linearizably first.
"""

import asyncio
import logging
from collections.abc import Sequence

from federation.catalog import Catalog
from federation.epoch import Known
from federation.head import FEDERATION, SealedHead, Verifier, unseal, unseal_bytes
from federation.keys import HEAD
from federation.store import Store
from federation.writer import Writer
from fedmarket.errors import Corrupt, Refused, Unavailable
from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead

log = logging.getLogger(__name__)


class Restorer:
    """Judges what peers show of this zone's federated catalog."""

    def __init__(
        self,
        store: Store,
        own: Catalog,
        federation: Writer,
        others: Sequence[Writer],
        key: Verifier,
        catch_up_seconds: float,
    ) -> None:
        self._store = store
        self._own = own
        self._federation = federation
        self._others = others
        """Of the catalogs that were put back together with the federated one, and that nobody follows."""
        self._key = key
        self._catch_up_seconds = catch_up_seconds
        self._judging = asyncio.Lock()
        self._begun = 0
        """The last epoch that was begun here; 0: none in this agent's life."""

    async def show(self, signed: SignedHead) -> None:
        """Take note of a head that a peer holds of this zone; where it proves a loss, a new epoch has begun after this.

        Raises Unavailable if the store cannot be asked.
        """
        try:
            shown = unseal(signed, self._key)
        except Corrupt as error:
            log.warning("a peer shows a head that this zone did not sign, which proves nothing: %s", error.message)
            return
        if (shown.head.zone, shown.head.catalog) != (self._own.home, FEDERATION):
            return
        if self._own.state is None or not self._unknown(shown):  # what cannot be read can only be repaired
            return
        async with self._judging:
            await self._catch_up()
            if not self._unknown(shown):
                return
            if shown.head.epoch >= self._begun > 0:
                self._bar(shown)
                return
            log.error("a peer holds head %s of this zone, and etcd does not: it was put back, or cloned", shown.pair)
            # The federated one last: what proves the loss is gone with it, and the others would never begin theirs.
            for writer in (*self._others, self._federation):
                await self._begin(writer, [shown.head] if writer is self._federation else [])

    async def _begin(self, writer: Writer, known: Sequence[Known]) -> None:
        try:
            await writer.begin_epoch(known)
        except Refused as error:
            log.error("no new epoch can begin: %s", error.message)
        else:
            if writer is self._federation:
                self._begun = self._own.pair[0]

    def _unknown(self, shown: SealedHead) -> bool:
        """Say whether the catalog cannot have come to where it is by way of `shown`."""
        if shown.pair > self._own.pair:
            return True
        committed = self._own.hash_at(shown.pair)
        return shown.head.epoch == self._own.pair[0] and committed not in (None, shown.hash)

    async def _catch_up(self) -> None:
        """Read our head linearizably, and wait until it is here."""
        stored = await self._store.get(self._own.prefix + HEAD)
        if stored is None:
            raise Unavailable("this zone's catalog is not in etcd: look at the agent's log")
        await self._own.wait_for(unseal_bytes(stored.value, self._key).pair, self._catch_up_seconds)

    def _bar(self, shown: SealedHead) -> None:
        """Write no more: whoever signed this did so after our new epoch began, with our key and another store."""
        self._own.barred = (
            f"another copy of this zone is at work: it has signed head {shown.pair[0]}/{shown.pair[1]} after epoch "
            f"{self._begun} began here: stop one of the two, and start the other with "
            "`fedmarket zone init --new-epoch`"
        )
        log.error("%s", self._own.barred)
