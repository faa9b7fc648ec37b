"""Giving the free space of an embedded etcd's database back, at a moment at which nobody changes anything.

Compaction frees pages inside the file, which etcd uses again; the file only ever grows, and its size is what the quota
limits. etcd stands still while it is defragmented, 0.7 to 2 s per 100 MiB in use as measured: so it is not done for
little, and not in the middle of somebody's work. It has one member, so no other can be standing still as well. An etcd
that runs elsewhere is others' to defragment.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from federation.catalog import Catalog
from federation.etcd.client import EtcdClient
from fedmarket.pb.etcd import rpc_pb2 as rpc
from fedmarket.units import MIB, human_size
from zone_agent.upkeep.health import EtcdHealth, MemberHealth

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefragmentSettings:
    """When it is worth standing still for."""

    free_part: float = 0.5
    """Of the file; less is used again soon."""
    free_bytes: int = 100 * MIB
    """Below this a file is small whatever is free of it; a quarter of the quota, where that is less."""
    quiet_seconds: float = 30.0
    """For so long no catalog may have changed."""
    waits: int = 40
    """How often to wait for that, before it is left for the next time."""
    call_seconds: float = 600.0
    """Time for it: a disk that is slow and shared may take a hundred times as long as measured."""


DEFAULT_SETTINGS = DefragmentSettings()


class Defragmenter:
    """Defragments the database of an embedded etcd when much of it is free."""

    def __init__(
        self,
        health: EtcdHealth,
        dial: Callable[[float], AbstractAsyncContextManager[EtcdClient]],
        catalogs: Callable[[], Sequence[Catalog]],
        settings: DefragmentSettings = DEFAULT_SETTINGS,
    ) -> None:
        self._health = health
        self._dial = dial
        """Makes a client whose calls may take so many seconds."""
        self._catalogs = catalogs
        self._settings = settings

    async def run(self) -> None:
        """Defragment if it is worth it, and as soon as nothing has changed for a while. Raises FedmarketError."""
        if not self._health.embedded:
            return
        await self._health.look()
        for _ in range(self._settings.waits):
            if not any(map(self._is_worth_it, self._health.members)):
                return
            before = self._roots()
            await asyncio.sleep(self._settings.quiet_seconds)
            if self._roots() == before:
                await self._defragment()
                return
        log.warning("etcd's database is not defragmented now: changes did not stop for long enough")

    async def _defragment(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        (before,) = self._health.members
        async with self._dial(self._settings.call_seconds) as client:
            await client.call(client.maintenance.Defragment, rpc.DefragmentRequest(), doing="defragment")
        seconds = loop.time() - started
        await self._health.look(anew=True)
        (after,) = self._health.members
        log.info("etcd's database: %s, before %s; %.1f s", human_size(after.size), human_size(before.size), seconds)

    def _is_worth_it(self, member: MemberHealth) -> bool:
        least = min(self._settings.free_bytes, member.quota // 4)
        return member.free >= least and member.free >= self._settings.free_part * member.size

    def _roots(self) -> list[bytes]:
        """Return what tells whether any record has changed: a head alone is signed anew also where nothing does."""
        return [catalog.state.head.head.root if catalog.state else b"" for catalog in self._catalogs()]
