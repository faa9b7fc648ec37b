"""Waiting until a peer's commit is seen, by whichever way it comes."""

import asyncio

import pytest

from federation.link.direct import Newest
from federation.memory import MemoryStore
from fedmarket.errors import Timeout
from tests.support.federation import Zone

BOUND = 10.0


@pytest.mark.parametrize("shared", [False, True])
async def test_a_commit_is_seen_by_a_stream_or_in_the_shared_etcd(shared: bool) -> None:
    store = MemoryStore()
    async with Zone(0, store) as berlin, Zone(100, store if shared else MemoryStore()) as tokyo:
        tokyo.follow(berlin)
        newest = Newest(tokyo.replicas, tokyo.direct)
        for name in ("a", "b", "c"):
            await berlin.create(name)
            await newest.wait_for(0, berlin.own.pair, BOUND)
            assert newest[0].pair >= berlin.own.pair


async def test_a_commit_that_does_not_come_is_not_waited_for_longer_than_said() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        with pytest.raises(Timeout, match="did not reach commit 9/9"):
            await Newest(tokyo.replicas, tokyo.direct).wait_for(0, (9, 9), 0.01)
        assert len(asyncio.all_tasks()) < 30
