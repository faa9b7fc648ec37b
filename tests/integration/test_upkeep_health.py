"""An agent's own look at its etcd: what it knows of each member, what it warns of, and when it defragments."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from federation.etcd.client import EtcdClient, Settings, dial
from federation.etcd.store import EtcdStore
from federation.keys import Keyspace
from federation.store import Txn
from fedmarket.errors import NoSpace
from tests.support.agent import AgentZone
from tests.support.etcd import VERSIONS, EtcdFactory
from tests.support.stores import compact
from tests.support.waiting import BOUND_SECONDS
from zone_agent.config import load
from zone_agent.etcd import OpenEtcd, open_etcd
from zone_agent.upkeep.alarms import Alarms
from zone_agent.upkeep.defragment import Defragmenter, DefragmentSettings
from zone_agent.upkeep.health import EtcdHealth, MemberHealth

QUOTA = 4 * 2**20
LARGE = b"x" * 100_000
PREFIX = "/fedmarket/1/"


@asynccontextmanager
async def watching(*endpoints: str, quota: int = QUOTA) -> AsyncGenerator[tuple[EtcdHealth, Alarms, EtcdClient]]:
    """Give the health of an etcd, where its alarms go, and a client of its first member."""
    alarms = Alarms()
    async with AsyncExitStack() as stack:
        settings = Settings(call_seconds=2.0)
        clients = {each: await stack.enter_async_context(dial([each], settings)) for each in endpoints}
        health = EtcdHealth(clients, alarms, Path("/etc/zone.toml"), quota)
        client = clients[endpoints[0]]
        client.when_full = health.when_full
        yield health, alarms, client


async def overwrite(store: EtcdStore, times: int) -> None:
    """Put one key again and again, over what it is."""
    for _ in range(times):
        found = await store.get("k")
        await store.txn(Txn({"k": found.mod_revision if found else 0}, puts={"k": LARGE}))


async def seen(health: EtcdHealth, condition: Callable[[MemberHealth], bool]) -> MemberHealth:
    """Look until the one member tells what it should: etcd counts its pages anew every tenth of a second."""
    async with asyncio.timeout(BOUND_SECONDS):
        while True:
            await health.look(anew=True)
            (member,) = health.members
            if condition(member):
                return member
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_members_tell_becomes_figures_and_alarms(etcd_factory: EtcdFactory, version: str) -> None:
    server = etcd_factory(f"--quota-backend-bytes={QUOTA}", version=version)
    async with watching(server.endpoint) as (health, alarms, client):
        store = EtcdStore(client)
        await overwrite(store, 1)
        member = await seen(health, lambda member: member.in_use > len(LARGE))
        assert (member.leads, member.quota, member.revision) == (True, QUOTA, 2)
        assert member.version.startswith(version)
        assert member.size >= member.in_use
        assert alarms.current() == []

        with pytest.raises(NoSpace) as raised:
            await overwrite(store, 100)
        (sentence,) = alarms.current()
        assert raised.value.message == sentence
        assert health.etcd_alarms == {"NOSPACE"}
        assert "of the 4.0 MiB that its quota allows" in sentence
        commands = [f"`fedmarket etcd {name} --config /etc/zone.toml`" for name in ("compact", "defrag", "disarm")]
        assert sentence.endswith(f": run {', then '.join(commands)}")


async def test_an_alarm_comes_before_etcd_is_full(etcd_factory: EtcdFactory) -> None:
    server = etcd_factory()
    async with watching(server.endpoint, quota=300_000) as (health, alarms, client):
        await overwrite(EtcdStore(client), 3)
        await seen(health, lambda member: member.size >= 300_000)
        (sentence,) = alarms.current()
        assert "is nearly full" in sentence
        assert "raise [etcd] quota_mb" in sentence


async def test_a_member_that_does_not_answer_is_named(etcd_factory: EtcdFactory) -> None:
    servers = [etcd_factory(), etcd_factory()]
    servers[1].stop()
    async with watching(*(server.endpoint for server in servers)) as (health, alarms, _):
        await health.look()
        assert [bool(member.error) for member in health.members] == [False, True]
        (sentence,) = alarms.current()
        assert servers[1].endpoint in sentence


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncGenerator[OpenEtcd, None]:
    """An embedded etcd, as an agent opens it."""
    file = tmp_path / "zone.toml"
    file.write_text('[zone]\nid = 7\nname = "seven"\n[etcd]\nquota_mb = 64\n')
    async with open_etcd(load(file), Keyspace(PREFIX, 7)) as opened:
        yield opened


SOON = DefragmentSettings(free_bytes=2**20, quiet_seconds=0.05, waits=3)


async def size(etcd: OpenEtcd) -> int:
    async with etcd.dial_patiently(30.0) as client:
        return (await client.status()).dbSize


async def leave_history(etcd: OpenEtcd) -> int:
    """Fill the database with what nobody needs any more, and return its size."""
    assert isinstance(etcd.store, EtcdStore)
    await overwrite(etcd.store, 40)
    async with etcd.dial_patiently(30.0) as client:
        await compact(client, (await client.status()).header.revision)
    async with asyncio.timeout(BOUND_SECONDS):
        while not etcd.health.members or etcd.health.members[0].free < 3_000_000:
            await etcd.store.txn(Txn({}, puts={"k": b""}))  # with which etcd counts what was freed before
            await etcd.health.look(anew=True)
    return etcd.health.members[0].size


async def test_a_database_that_is_mostly_free_is_defragmented(etcd: OpenEtcd) -> None:
    before = await leave_history(etcd)
    await Defragmenter(etcd.health, etcd.dial_patiently, list, SOON).run()
    assert await size(etcd) < before / 2
    assert etcd.health.members[0].size < before / 2


async def test_a_database_that_is_small_is_left_alone(etcd: OpenEtcd) -> None:
    before = await leave_history(etcd)
    await Defragmenter(etcd.health, etcd.dial_patiently, list, DefragmentSettings(quiet_seconds=0.05)).run()
    assert await size(etcd) >= before


async def test_it_is_not_done_while_somebody_makes_changes(etcd: OpenEtcd, tmp_path: Path) -> None:
    before = await leave_history(etcd)
    async with AgentZone(tmp_path / "agent") as zone:

        async def change_on_and_on() -> None:
            for number in range(10_000):
                await zone.market(f"m{number}")

        changing = asyncio.create_task(change_on_and_on())
        defragmenter = Defragmenter(etcd.health, etcd.dial_patiently, lambda: [zone.own], SOON)
        await defragmenter.run()
        assert await size(etcd) >= before
        changing.cancel()
        with suppress(asyncio.CancelledError):
            await changing
        await defragmenter.run()
    assert await size(etcd) < before / 2
