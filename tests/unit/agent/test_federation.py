"""What an operator asks of a zone among others: verify, retry, lost, forget; and the hourly scrub."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from federation.catalog import Catalog
from federation.draft import Draft
from federation.head import FEDERATION, seal
from federation.keys import HEAD
from federation.link.sink import State
from federation.records import encode
from federation.scrub import Scrubber, Subject, Verdict
from federation.store import Txn
from federation.view import View
from fedmarket.errors import BadInput, NotFound, Refused
from fedmarket.pb.fedmarket.v1.record_pb2 import ZoneRecord
from tests.support.federation import Zone, key_of, market
from tests.support.waiting import eventually
from zone_agent.duties import Duties
from zone_agent.services.catalogs import Catalogs
from zone_agent.services.federation import DUTY, FederationService, FederationSettings, ZoneCheck
from zone_agent.services.zones import Pinned, ZoneService

HOME, HERE = 0, 100
SETTINGS = FederationSettings(scrub_seconds=0.01, retry_seconds=5.0, catch_up_seconds=5.0)


@dataclass(frozen=True)
class Operated:
    """A zone that follows another one, and its operator's use cases."""

    home: Zone
    here: Zone
    duties: Duties
    service: FederationService

    @property
    def replica(self) -> str:
        return self.here.keyspace.replica(HOME)

    async def put(self, key: str, value: bytes) -> None:
        """Write into the copy of the home, as somebody with etcdctl does."""
        assert (await self.here.store.txn(Txn({}, puts={self.replica + key: value}))).succeeded

    async def cut(self) -> None:
        self.here.cut()
        await eventually(lambda: self.here.links[HOME].status.state is State.DOWN)

    async def alter_key(self) -> None:
        """Store a head of another key, as where the pinned key has changed."""
        state = self.home.own.state
        assert state is not None
        await self.put(HEAD, seal(state.head.head, key_of(7)).encode())
        await eventually(lambda: bool(self.here.replicas[HOME].fault))


@pytest.fixture
async def operated() -> AsyncGenerator[Operated, None]:
    async with Zone(HOME) as home, Zone(HERE) as here, following(home, here) as made:
        yield made


@asynccontextmanager
async def following(home: Zone, here: Zone) -> AsyncGenerator[Operated, None]:
    await home.writer.commit(lambda draft: name_zone(draft, HOME, "berlin"))
    await here.writer.commit(lambda draft: name_zone(draft, HERE, "tokyo"))
    await home.create("a")
    here.follow(home)
    await here.caught_up_with(home)
    await eventually(lambda: here.links[HOME].status.state is State.TAIL)
    private = Catalog(HERE, here.keyspace.private, here.key.public, own=True)
    catalogs = Catalogs(View(here.own, private, here.replicas), here.writer, here.writer)
    statuses = {zone: link.status for zone, link in here.links.items()}
    zones = ZoneService(catalogs, "key", {HOME: Pinned("berlin:7635", "key")}, statuses, {})
    subjects = [
        Subject(here.own, FEDERATION, here.key.public),
        Subject(here.replicas[HOME], FEDERATION, home.key.public),
    ]
    duties = Duties(here.store, here.keyspace, "agent", ttl_seconds=5.0, check_seconds=0.01)
    scrubber = Scrubber(here.store, lambda: subjects, 5.0)
    service = FederationService(
        catalogs, zones, here.links, here.replicas, scrubber, here.store, here.keyspace, duties, SETTINGS
    )
    running = asyncio.create_task(duties.run())
    yield Operated(home, here, duties, service)
    running.cancel()
    await asyncio.wait([running])


def name_zone(draft: Draft, zone: int, name: str) -> None:
    draft.add(zone, ZoneRecord(name=name))


async def verify(service: FederationService, ref: int | str | None = None) -> list[ZoneCheck]:
    async with asyncio.timeout(10):
        return [check async for check in service.verify(ref)]


# -- verify


async def test_verify_tells_of_each_catalog_and_whether_a_copy_is_the_newest(operated: Operated) -> None:
    own, replica = await verify(operated.service)

    assert [(c.zone, c.check.verdict, c.current) for c in (own, replica)] == [
        ("tokyo", Verdict.OK, None),
        ("berlin", Verdict.OK, True),
    ]
    assert [check.zone for check in operated.service.last_checks()] == ["tokyo", "berlin"]
    assert operated.service.alarms() == []


async def test_verify_can_be_of_one_zone(operated: Operated) -> None:
    assert [check.zone for check in await verify(operated.service, "berlin")] == ["berlin"]
    assert [check.zone for check in await verify(operated.service, HERE)] == ["tokyo"]
    with pytest.raises(NotFound):
        await verify(operated.service, "lima")


async def test_verify_waits_until_what_was_damaged_is_repaired(operated: Operated) -> None:
    await operated.put("market/100", encode(market("changed")))

    first, last = await verify(operated.service, HOME)

    assert (first.check.verdict, first.repaired) == (Verdict.REPAIRING, False)
    assert (last.check.verdict, last.repaired) == (Verdict.OK, True)
    assert operated.service.summary().repairs == 1


async def test_a_copy_of_an_older_head_than_its_peer_showed_is_not_current(operated: Operated) -> None:
    link = operated.here.links[HOME]
    await operated.cut()
    await operated.home.create("b")
    state = operated.home.own.state
    assert state is not None
    link.status.there = state.head

    (check,) = await verify(operated.service, HOME)

    assert (check.check.verdict, check.current) == (Verdict.OK, False)


async def test_what_a_person_must_see_to_is_an_alarm(operated: Operated) -> None:
    await operated.cut()
    await operated.alter_key()
    operated.here.heal()
    await eventually(lambda: operated.here.links[HOME].status.state is State.REFUSED)

    fault, link = operated.service.alarms()

    assert "cannot be trusted" in fault
    assert "berlin (0) is refused" in link
    assert "fedmarket federation retry 0" in link


# -- the hourly scrub


async def test_every_catalog_is_scrubbed_again_and_again(operated: Operated) -> None:
    scrubbing = asyncio.create_task(operated.service.run())
    await eventually(lambda: operated.service.summary().scrubs >= 3)
    scrubbing.cancel()
    await asyncio.wait([scrubbing])

    assert await operated.duties.all() == {DUTY}
    assert [check.check.verdict for check in operated.service.last_checks()] == [Verdict.OK, Verdict.OK]


async def test_only_the_agent_whose_duty_it_is_scrubs(operated: Operated) -> None:
    held = operated.here.keyspace.duty(DUTY)
    await operated.here.store.txn(Txn({}, puts={held: b"another agent"}))
    claims: list[Txn] = []
    operated.here.store.fault = lambda txn, moment: claims.append(txn) if held in txn.puts else None
    scrubbing = asyncio.create_task(operated.service.run())
    await eventually(lambda: len(claims) >= 5)
    scrubbing.cancel()
    await asyncio.wait([scrubbing])

    assert operated.service.summary().scrubs == 0


# -- retry


async def test_a_link_that_is_down_is_dialled_at_once(operated: Operated) -> None:
    await operated.cut()
    operated.here.heal()

    zone, status = await operated.service.retry("berlin")

    assert (zone.id, status.state) == (HOME, State.TAIL)


async def test_a_retry_of_a_fault_that_is_still_there_says_so(operated: Operated) -> None:
    await operated.cut()
    await operated.alter_key()
    operated.here.heal()
    await eventually(lambda: operated.here.links[HOME].status.state is State.REFUSED)
    before = operated.here.links[HOME].status.last_error_time

    _, status = await operated.service.retry(HOME)

    assert status.state is State.REFUSED
    assert status.last_error_time > before


async def test_a_retry_of_a_link_that_is_up_leaves_it(operated: Operated) -> None:
    streams = set(operated.here._streams)

    _, status = await operated.service.retry(HOME)

    assert status.state is State.TAIL
    assert operated.here._streams == streams


async def test_there_is_nothing_to_retry_of_this_zone_itself_nor_of_an_unknown_one(operated: Operated) -> None:
    with pytest.raises(BadInput, match="itself"):
        await operated.service.retry("tokyo")
    with pytest.raises(NotFound):
        await operated.service.retry(77)


# -- lost


async def test_lost_records_are_listed_by_zone_and_epoch(operated: Operated) -> None:
    value = encode(market("m"))
    for key in ("lost/2/market/100", "lost/10/market/100", "lost/2/gadget/5"):
        await operated.put(key, value)

    async def listed(ref: int | str | None, epoch: int = 0) -> list[tuple[str, int, str, str]]:
        return [(zone, r.epoch, r.kind, r.name) async for zone, r in operated.service.lost(ref, epoch)]

    gadget, second, tenth = ("berlin", 2, "gadget", ""), ("berlin", 2, "market", "m"), ("berlin", 10, "market", "m")
    assert await listed(None) == await listed("berlin") == await listed(0) == [gadget, second, tenth]
    assert await listed(0, 2) == [gadget, second]
    assert await listed(77) == []
    with pytest.raises(NotFound):
        await listed("lima")


async def test_the_newest_of_a_lost_record_is_shown_unless_an_epoch_is_named(operated: Operated) -> None:
    await operated.put("lost/2/market/100", encode(market("older")))
    await operated.put("lost/10/market/100", encode(market("newer")))

    assert (await operated.service.show_lost("berlin", "market", 100, 0))[1].name == "newer"
    assert (await operated.service.show_lost(0, "market", 100, 2))[1].name == "older"
    with pytest.raises(NotFound, match="market/101"):
        await operated.service.show_lost(0, "market", 101, 0)


# -- forget


async def test_a_good_copy_of_a_peer_is_not_forgotten(operated: Operated) -> None:
    with pytest.raises(Refused, match=r"berlin \(0\) is a peer"):
        await operated.service.forget("berlin")
    with pytest.raises(BadInput, match="itself"):
        await operated.service.forget(HERE)
    assert operated.here.replicas[HOME].tree.count == 2


async def test_a_zone_that_is_no_peer_any_more_is_forgotten(operated: Operated) -> None:
    prefix = operated.here.keyspace.replica(7)
    await operated.here.store.txn(Txn({}, puts={prefix + HEAD: b"h", f"{prefix}lost/1/app/7000100": b"x"}))

    assert await operated.service.forget(7) == (7, 2)

    assert (await operated.here.store.snapshot(prefix)).items == []
    with pytest.raises(NotFound, match="nothing is stored"):
        await operated.service.forget(7)


async def test_what_is_stored_of_zones_that_were_removed_is_deleted_by_itself(operated: Operated) -> None:
    former = operated.here.keyspace.replica(7)
    left = {f"{former}{key}": b"x" for key in (HEAD, "market/7000100", "lost/1/market/7000101")}
    await operated.here.store.txn(Txn({}, puts=left))
    running = asyncio.create_task(operated.service.run())
    async with asyncio.timeout(10):
        while (await operated.here.store.snapshot(former)).items:
            await asyncio.sleep(0.01)
    running.cancel()
    assert operated.here.replicas[HOME].pair == operated.home.own.pair


async def test_a_copy_of_another_key_is_forgotten_and_fetched_anew(operated: Operated) -> None:
    await operated.cut()
    await operated.put("lost/1/market/7", b"x")
    await operated.alter_key()
    operated.here.heal()
    await eventually(lambda: operated.here.links[HOME].status.state is State.REFUSED)

    zone, keys = await operated.service.forget(HOME)

    assert (zone, keys) == (HOME, 4)
    await eventually(lambda: operated.here.links[HOME].status.state is State.TAIL)
    assert operated.here.replicas[HOME].tree.root == operated.home.own.tree.root
    assert (operated.here.replicas[HOME].fault, operated.service.alarms()) == ("", [])
