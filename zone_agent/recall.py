"""Asking the peers for what they hold of this zone's own catalog, and repairing it with that."""

import asyncio
import os
import socket
from collections.abc import Collection
from contextlib import aclosing

from federation.commit import Origin
from federation.head import FEDERATION, PRIVATE, CatalogId, Verifier
from federation.recall import Copy, Recall
from federation.repair import Answers, Held, Repairer
from fedmarket.errors import FedmarketError
from fedmarket.threads import in_thread
from zone_agent.core import Core
from zone_agent.peers import Peers


class Recaller:
    """One zone's way back to its own catalog."""

    def __init__(self, zone: int, key: Verifier, peers: Peers, ids: Collection[int]) -> None:
        self._zone = zone
        self._key = key
        self._peers = peers
        self._ids = ids

    async def of(self, peer: int) -> Copy:
        """Return what one peer holds, verified.

        Raises NotFound if it holds none, Unavailable if it does not answer, Corrupt if it is not what we signed.
        """
        recall = Recall(self._zone, self._key)
        async with aclosing(self._peers.recover(peer)) as messages:
            async for message in messages:
                recall.take(message)
        return await in_thread(recall.finish)

    async def of_all(self) -> Answers:
        """Return what each peer holds; one that fails keeps nobody from being asked."""
        asked = await asyncio.gather(*(self._try(peer) for peer in sorted(self._ids)))
        return Answers(
            [answer for answer in asked if isinstance(answer, Held)],
            [answer for answer in asked if isinstance(answer, str)],
        )

    async def _try(self, peer: int) -> Held | str:
        try:
            return Held(f"zone {peer}", await self.of(peer))
        except FedmarketError as error:
            return error.message.partition(": ")[0]


def repairers(core: Core, peers: Peers, ids: Collection[int]) -> dict[CatalogId, Repairer]:
    """Return what repairs the catalogs of this zone: the federated one with the help of its peers."""
    view = core.catalogs.view
    recaller = Recaller(view.zone, core.key.public, peers, ids)
    agent = f"{socket.gethostname()}/{os.getpid()}/repair"
    return {
        kind: Repairer(
            core.store, catalog, Origin(view.zone, kind, catalog.prefix, core.key, agent), ask, core.catch_up_seconds
        )
        for kind, catalog, ask in ((FEDERATION, view.own, recaller.of_all), (PRIVATE, view.private, _nobody))
    }


async def _nobody() -> Answers:
    """Return that there is no copy: nobody follows a private catalog."""
    return Answers()
