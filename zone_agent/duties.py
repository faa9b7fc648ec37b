"""Duties: background work that one agent of a zone does at a time.

An agent has one etcd lease. What it does, it says by keys under that lease: they go when the agent dies.
"""

import asyncio
import logging

from federation.keys import Keyspace
from federation.store import Lease, Store, Txn
from fedmarket.errors import FedmarketError, Refused, Unavailable

log = logging.getLogger(__name__)


class Duties:
    """What this agent does under its lease. `run` must be running."""

    def __init__(self, store: Store, keyspace: Keyspace, agent: str, ttl_seconds: float, check_seconds: float) -> None:
        self._store = store
        self._keyspace = keyspace
        self._agent = agent.encode()
        self._ttl = ttl_seconds
        self._check = check_seconds
        self._lease: Lease | None = None
        self._held: set[str] = set()
        self._let_go: set[str] = set()
        """Released, but etcd does not know yet."""
        self._ready = asyncio.Event()

    @property
    def agent(self) -> str:
        """The name of this agent, different from that of every other, also of those that were before it."""
        return self._agent.decode()

    async def run(self) -> None:
        """Keep a lease, for ever; one that is lost is replaced, and what was held is claimed again."""
        while True:
            async with self._store.lease(self._ttl) as lease:
                self._lease = lease
                for name in sorted(self._held):
                    await self._put(lease, name)
                self._ready.set()
                try:
                    while not lease.lost:
                        await asyncio.sleep(self._check)
                        await self._free()
                finally:
                    self._lease = None
                    self._ready.clear()
            log.warning("the agent's etcd lease was lost: taking a new one")

    async def claim(self, name: str) -> None:
        """Say that this agent does `name`. Raises Refused if another one does, Unavailable without a lease."""
        if not await self.try_claim(name):
            raise Refused(f"another agent of this zone is at work on {name}: wait until it has ended")

    async def try_claim(self, name: str) -> bool:
        """Claim a duty; False: another agent holds it."""
        lease = await self._current()
        if name in self._held:
            return True
        if not await self._put(lease, name):
            return False
        self._let_go.discard(name)
        self._held.add(name)
        return True

    async def release(self, name: str) -> None:
        """Let go of a duty; if etcd does not answer, as soon as it does."""
        self._held.discard(name)
        self._let_go.add(name)
        await self._free()

    async def is_held(self, name: str) -> bool:
        """Say whether some agent of the zone holds a duty now."""
        return await self._store.get(self._keyspace.duty(name)) is not None

    async def all(self) -> frozenset[str]:
        """Return the names of all duties that some agent of the zone holds now."""
        prefix = self._keyspace.duty("")
        snapshot = await self._store.snapshot(prefix)
        return frozenset(item.key.removeprefix(prefix) for item in snapshot.items)

    async def clear(self) -> None:
        """Drop the duties of agents that are known to be dead, before their leases end. Called before `run`."""
        for name in await self.all():
            await self._store.txn(Txn({}, deletes=[self._keyspace.duty(name)]))

    async def _free(self) -> None:
        """Remove the keys of what was let go, unless another agent holds it by now."""
        for name in sorted(self._let_go):
            key = self._keyspace.duty(name)
            try:
                stored = await self._store.get(key)
                if stored is not None and stored.value == self._agent:
                    await self._store.txn(Txn({key: stored.mod_revision}, deletes=[key]))
            except FedmarketError as error:
                log.warning("duty %s is released later: %s", name, error.message)
                return
            self._let_go.discard(name)

    async def _current(self) -> Lease:
        try:
            async with asyncio.timeout(self._ttl):
                await self._ready.wait()
        except TimeoutError:
            pass
        if self._lease is None:
            raise Unavailable("this agent holds no lease in etcd at the moment: try again in a few seconds")
        return self._lease

    async def _put(self, lease: Lease, name: str) -> bool:
        key = self._keyspace.duty(name)
        result = await self._store.txn(Txn({key: 0}, puts={key: self._agent}, lease=lease.id, read_on_failure=key))
        return result.succeeded or (result.current is not None and result.current.value == self._agent)
