"""Use cases that are broken off at any commit: by etcd, or by a client that goes away. Nothing stays half done."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest

from federation.memory import Moment
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import BadInput, Corrupt, FedmarketError, NotFound
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_LOCKED,
    IMAGE_STATE_LOCKED,
    IMAGE_STATE_READY,
    AppRecord,
    ImageRecord,
)
from tests.support.agent import AgentZone, HeldStore, chunks_of, touches
from zone_agent.services.images import NewImage

SIZE = 5000
DATA = b"x" * SIZE


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncGenerator[AgentZone, None]:
    async with AgentZone(tmp_path) as made:
        await made.market("m")
        yield made


def locked(zone: AgentZone) -> list[str]:
    """Return what is LOCKED, or held by an app that is not LOCKED."""
    apps = zone.view.page(AppRecord, -1, 100)
    images = zone.view.page(ImageRecord, -1, 100)
    at_work = {a.id for a in apps if a.message.state == APP_STATE_LOCKED}
    return [
        *(f"app {a.message.name}" for a in apps if a.message.state == APP_STATE_LOCKED),
        *(f"image {i.message.name}" for i in images if i.message.state == IMAGE_STATE_LOCKED),
        *(f"image {i.message.name} is held" for i in images if set(i.message.app_clones) - at_work),
    ]


def orphans(zone: AgentZone) -> list[str]:
    """Return the files that no record speaks of."""
    known = {app.message.object for app in zone.view.page(AppRecord, -1, 100)}
    known |= {image.message.object for image in zone.view.page(ImageRecord, -1, 100)}
    return [path.name for path in zone.blobs() if path.name not in known]


@pytest.fixture
async def held(tmp_path: Path) -> AsyncGenerator[tuple[AgentZone, HeldStore], None]:
    store = HeldStore()
    async with AgentZone(tmp_path, store=store) as made:
        await made.market("m")
        await made.image("kept", DATA)
        yield made, store


async def break_off(task: "asyncio.Task[object]", store: HeldStore) -> None:
    """Cancel a call while its commit is in flight, as gRPC does when the client goes away."""
    reached = asyncio.create_task(store.reached.wait())
    await asyncio.wait([task, reached], timeout=5, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    reached.cancel()
    await asyncio.sleep(0)
    store.proceed.set()
    await asyncio.wait([task, reached], timeout=5)


@pytest.mark.parametrize("step", range(1, 6))
async def test_an_import_whose_client_goes_away_leaves_nothing_half_done(
    held: tuple[AgentZone, HeldStore], step: int
) -> None:
    zone, store = held
    store.hold(step)
    await break_off(asyncio.create_task(zone.image("i", DATA)), store)

    await settled(zone)
    assert (locked(zone), orphans(zone)) == ([], [])


@pytest.mark.parametrize("step", range(1, 7))
async def test_a_create_whose_client_goes_away_leaves_nothing_half_done(
    held: tuple[AgentZone, HeldStore], step: int
) -> None:
    zone, store = held
    store.hold(step)
    await break_off(asyncio.create_task(zone.apps.create(zone.admin, "a", "kept", "m")), store)

    await settled(zone)
    assert (locked(zone), orphans(zone)) == ([], [])


async def settled(zone: AgentZone) -> None:
    """Wait until what was in flight is written, and then until nothing is half done, or a short while has passed."""
    await zone.catalogs.federation.beat()
    await zone.catalogs.private.beat()
    for _ in range(100):
        if not locked(zone) and not orphans(zone):
            return
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("part", ["image/", "duty/"])
async def test_an_import_ends_as_a_job_though_etcd_fails_to_the_very_end(zone: AgentZone, part: str) -> None:
    gone = False

    def away(txn: Txn, moment: Moment) -> None:
        if gone and touches(txn, part):
            raise StoreUnavailable("etcd is away")

    zone.store.fault = away

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal gone
        async for chunk in chunks_of(DATA[:-1]):
            yield chunk
        gone = True

    with pytest.raises(FedmarketError):
        await zone.images.import_stream(zone.admin, NewImage("i", "default", SIZE), chunks())
    gone = False

    assert zone.jobs.running("image-0") is None
    async with asyncio.timeout(5):
        while await zone.duties.all():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("extra", [-1, 1])
async def test_an_import_of_another_size_than_announced_leaves_nothing(zone: AgentZone, extra: int) -> None:
    with pytest.raises(Corrupt, match=str(SIZE + extra)):
        await zone.images.import_stream(zone.admin, NewImage("i", "default", SIZE + extra), chunks_of(DATA))

    assert (zone.blobs(), zone.view.page(ImageRecord, -1, 10)) == ([], [])


async def test_an_announced_size_that_no_disk_has_is_refused_in_a_sentence(zone: AgentZone) -> None:
    with pytest.raises(FedmarketError):
        await zone.images.import_stream(zone.admin, NewImage("i", "default", 2**63), chunks_of(DATA))

    assert (zone.blobs(), zone.view.page(ImageRecord, -1, 10)) == ([], [])


async def test_an_empty_image_is_refused(zone: AgentZone) -> None:
    with pytest.raises(BadInput, match="empty"):
        await zone.images.import_stream(zone.admin, NewImage("i", "default", 0), chunks_of(b""))


async def test_an_app_whose_image_cannot_be_held_is_not_there(zone: AgentZone) -> None:
    image = await zone.image("i", DATA)

    def away(txn: Txn, moment: Moment) -> None:
        if touches(txn, f"image/{image.id}") and moment == "before":
            raise StoreUnavailable("etcd is away")

    zone.store.fault = away
    with pytest.raises(FedmarketError):
        await zone.apps.create(zone.admin, "a", "i", "m")
    zone.store.fault = lambda txn, moment: None

    assert zone.view.page(AppRecord, -1, 10) == []
    assert zone.images.show("i").message.state == IMAGE_STATE_READY


async def test_an_app_that_is_deleted_while_it_is_being_begun_does_not_hold_its_image_for_ever(
    zone: AgentZone,
) -> None:
    await zone.image("i", DATA)
    deletions: list[asyncio.Task[int]] = []

    def delete_at_hold(txn: Txn, moment: Moment) -> None:
        if touches(txn, "image/0") and moment == "after" and not deletions:
            deletions.append(asyncio.create_task(zone.apps.delete(zone.admin, "a")))

    zone.store.fault = delete_at_hold
    try:
        _, job = await zone.apps.create(zone.admin, "a", "i", "m")
    except FedmarketError:
        pass
    else:
        async for _ in zone.job_service.watch(job.id):
            pass
    await asyncio.wait(deletions)

    with pytest.raises(NotFound):
        zone.apps.show("a")
    await settled(zone)
    assert locked(zone) == []
    assert [path for path in zone.blobs() if path.is_relative_to(zone.layout.markets)] == []
