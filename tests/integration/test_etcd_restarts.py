"""20,000 events of an etcd that is killed while they are written, and while they are caught up."""

import asyncio
from contextlib import aclosing
from functools import partial
from itertools import count

import pytest

from federation.etcd.client import Settings, connect
from federation.etcd.store import EtcdStore
from federation.store import Change, Revision, Store, StoreUnavailable, Txn
from fedmarket.retry import Backoff
from tests.support.etcd import VERSIONS, EtcdFactory, EtcdServer
from tests.support.stores import Follower
from tests.support.waiting import eventually

EVENTS = 20_000
GROUP = 100  # events of a large transaction, its counter among them
PUTS = 10  # small transactions after each large one
SETTINGS = Settings(
    call_seconds=3.0,
    progress_seconds=0.5,
    silence_seconds=0.5,
    reconnect=Backoff(first_seconds=0.02, longest_seconds=0.2),
)


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest, etcd_factory: EtcdFactory) -> EtcdServer:
    return etcd_factory(version=request.param)


class Journal:
    """Writes transactions so that it knows of each, at last, at which revision it was applied, exactly once."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.written: list[Revision] = []
        self.events = 0
        self._store = store
        self._prefix = prefix
        self._at_counter = prefix + "counter"
        self._seen = 0

    async def write(self, number: int, keys: int) -> None:
        """Write a revision of that many keys."""
        counter = b"%d" % number
        values = {f"{self._prefix}{key:03}": b"%d of %d" % (key, number) for key in range(keys - 1)}
        puts = {self._at_counter: counter, **values}
        revision = 0
        while not revision:
            try:
                result = await self._store.txn(Txn({self._at_counter: self._seen}, puts=puts))
                revision = result.revision if result.succeeded else await self._applied_at(counter)
            except StoreUnavailable:
                revision = await self._applied_at(counter)
        self._seen = revision
        self.events += keys
        self.written.append(Revision(revision, [Change(key, value) for key, value in puts.items()]))

    def has(self, events: int) -> bool:
        return self.events >= events

    async def _applied_at(self, counter: bytes) -> int:
        """Return the revision of a transaction whose answer was lost; 0 if it was not applied."""
        while True:
            try:
                stored = await self._store.get(self._at_counter)
            except StoreUnavailable:
                await asyncio.sleep(0.02)
                continue
            return stored.mod_revision if stored and stored.value == counter else 0


async def crash(server: EtcdServer, journal: Journal, *when: int) -> None:
    """Kill etcd, and start it again, each time that so many events were written: writes are under way then."""
    for events in when:
        await eventually(partial(journal.has, events))
        server.kill()
        await server.restart()


async def test_no_event_is_lost_and_none_comes_twice(server: EtcdServer, prefix: str) -> None:
    async with connect([server.endpoint], SETTINGS) as client:
        store = EtcdStore(client)
        start = (await store.snapshot(prefix)).revision + 1
        journal, live = Journal(store, prefix), Follower(store, prefix, start)
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(live.run())
            crashing = tasks.create_task(crash(server, journal, 4_000, 9_000, 15_000))
            numbers = count(1)
            while journal.events < EVENTS:
                await journal.write(next(numbers), GROUP)
                for _ in range(PUTS):
                    await journal.write(next(numbers), 1)
            await crashing
            last = journal.written[-1].revision
            await eventually(lambda: bool(live.seen) and live.seen[-1].revision >= last)
            following.cancel()
        assert journal.events >= EVENTS
        assert live.seen == journal.written

        late: list[Revision] = []
        async with aclosing(store.watch(prefix, start)) as watch:
            while len(late) < len(journal.written):
                late.append(await anext(watch))
                if len(late) in (1, 500, 1200):
                    server.kill()
                    await server.restart()
        assert late == journal.written
