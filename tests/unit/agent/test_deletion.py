"""Deletes: refused, or done to the end, or an error that says why; never half, and never twice."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from federation.memory import MemoryStore, Moment
from federation.requests import NEVER_MADE, RequestId, Ticket
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import Cancelled, FedmarketError, NotFound, Refused, Unavailable
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_KIND_DELETE, JOB_STATE_DONE, JOB_STATE_FAILED, JobRecord
from fedmarket.pb.fedmarket.v1.peer_pb2 import RequestRecord
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_ERROR,
    APP_STATE_READY,
    IMAGE_STATE_ERROR,
    IMAGE_STATE_READY,
    AppRecord,
)
from tests.support.agent import AgentZone, touches

BOUND = 5.0
REQUEST = RequestId.of(100, "request-of-tokyo")


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncGenerator[AgentZone, None]:
    async with AgentZone(tmp_path) as made:
        await made.market("m")
        await made.image("i")
        yield made


async def have_app(zone: AgentZone, name: str = "a") -> int:
    app, job = await zone.apps.create(zone.admin, name, "i", "m")
    await zone.jobs.ended(job)
    return app.id


async def newest(zone: AgentZone) -> JobRecord:
    """Return the record of the last job."""
    return (await zone.book.all())[0].record


async def until_ended(zone: AgentZone) -> None:
    """Wait until the last job has ended."""
    async with asyncio.timeout(BOUND):
        while not (await newest(zone)).ended_ms:
            await asyncio.sleep(0.01)


def ticket_of(zone: AgentZone) -> Ticket:
    return zone.requests.ticket(REQUEST, b"digest")


async def noted(zone: AgentZone) -> RequestRecord:
    """Return what is noted of the request."""
    found = await zone.requests.find(REQUEST)
    assert found is not None
    return found[0]


async def test_a_request_is_noted_in_the_first_and_the_last_commit(zone: AgentZone) -> None:
    app = await have_app(zone)
    running: list[bool] = []

    def look(txn: Txn, moment: Moment) -> None:
        if moment == "after":
            running.extend(RequestRecord.FromString(v).running for k, v in txn.puts.items() if "/request/" in k)

    zone.store.fault = look
    assert await zone.apps.delete(zone.admin, "a", ticket_of(zone)) == app

    assert running == [True, False]
    assert (await noted(zone)).id == app
    record = await newest(zone)
    assert (record.kind, record.state) == (JOB_KIND_DELETE, JOB_STATE_DONE)
    assert (record.request_zone, record.request_id, record.request_change) == (100, REQUEST.id, b"digest")


async def test_a_request_that_was_made_before_changes_nothing(zone: AgentZone) -> None:
    await have_app(zone)
    files = zone.blobs()
    await zone.requests.refuse(REQUEST, NEVER_MADE)

    with pytest.raises(Cancelled, match="never will be"):
        await zone.apps.delete(zone.admin, "a", ticket_of(zone))
    app = zone.apps.show("a").message
    assert (app.state, app.error.text, zone.blobs()) == (1, "", files)


async def test_a_request_whose_bytes_cannot_be_removed_is_refused_in_the_commit_that_says_so(zone: AgentZone) -> None:
    await have_app(zone)
    directory = zone.layout.markets / str(zone.markets.show("m").id)
    await asyncio.to_thread(directory.rename, directory.with_name("elsewhere"))
    with pytest.raises(Refused, match=str(directory)) as caught:
        await zone.apps.delete(zone.admin, "a", ticket_of(zone))
    assert (await noted(zone)).refusal.text == caught.value.message

    await asyncio.to_thread(directory.with_name("elsewhere").rename, directory)
    job = await zone.jobs.retry((await zone.book.all())[0].id)
    await until_ended(zone)
    assert (await zone.book.get(job.id)).record.state == JOB_STATE_DONE
    assert (await noted(zone)).HasField("refusal"), "what the person asks for anew is another request"


async def test_a_delete_that_cannot_remove_the_bytes_is_an_error_and_can_be_repeated(zone: AgentZone) -> None:
    await have_app(zone)
    directory = zone.layout.markets / str(zone.markets.show("m").id)
    await asyncio.to_thread(directory.rename, directory.with_name("elsewhere"))
    with pytest.raises(Refused, match=str(directory)) as caught:
        await zone.apps.delete(zone.admin, "a")
    app = zone.apps.show("a").message
    assert (app.state, app.error.text) == (APP_STATE_ERROR, f"it could not be deleted: {caught.value.message}")
    assert (await newest(zone)).state == JOB_STATE_FAILED

    await asyncio.to_thread(directory.with_name("elsewhere").rename, directory)
    await zone.apps.delete(zone.admin, "a")
    with pytest.raises(NotFound):
        zone.apps.show("a")
    assert [path for path in zone.blobs() if path.is_relative_to(directory)] == []


async def test_an_image_that_cannot_be_deleted_is_in_error_and_not_forgotten(zone: AgentZone) -> None:
    directory = zone.layout.datastores / "default"
    await asyncio.to_thread(directory.rename, directory.with_name("elsewhere"))
    with pytest.raises(Refused, match="default"):
        await zone.images.delete(zone.admin, "i")
    image = zone.images.show("i").message
    assert image.state == IMAGE_STATE_ERROR
    assert image.error.text.startswith("it could not be deleted: ")
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
    await asyncio.to_thread(directory.with_name("elsewhere").rename, directory)
    await zone.images.delete(zone.admin, "i")
    assert zone.blobs() == []


async def test_of_two_deletes_at_once_one_deletes_and_the_other_says_so(zone: AgentZone) -> None:
    app = await have_app(zone)
    results = await asyncio.gather(
        zone.apps.delete(zone.admin, app), zone.apps.delete(zone.admin, app), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) in (["Refused", "int"], ["NotFound", "int"])


async def test_an_image_that_is_in_use_is_not_deleted_and_no_job_is_made(zone: AgentZone) -> None:
    await zone.images.hold(0, image=7)
    with pytest.raises(Refused, match="image 7 is being made from it"):
        await zone.images.delete(zone.admin, "i")
    assert [one.record.kind for one in await zone.book.all()].count(JOB_KIND_DELETE) == 0
    await zone.images.release(0, image=7)
    assert zone.images.show("i").message.state == IMAGE_STATE_READY


async def test_a_delete_that_etcd_breaks_off_is_finished_later_and_settles_its_request(zone: AgentZone) -> None:
    app = await have_app(zone)

    def away(txn: Txn, moment: Moment) -> None:
        if touches(txn, "job/") or touches(txn, f"app/{app}"):
            raise StoreUnavailable("etcd is away")

    def away_after_the_mark(txn: Txn, moment: Moment) -> None:
        if moment == "after" and touches(txn, f"app/{app}"):
            zone.store.fault = away

    zone.store.fault = away_after_the_mark
    with pytest.raises(FedmarketError):
        await zone.apps.delete(zone.admin, app, ticket_of(zone))
    zone.store.fault = lambda txn, moment: None
    assert zone.apps.show(app).message.state == APP_STATE_ERROR

    await zone.jobs.resume_all()
    await until_ended(zone)
    with pytest.raises(NotFound):
        zone.apps.show(app)
    record = await noted(zone)
    assert (record.id, record.running, record.HasField("refusal")) == (app, False, False)


async def test_a_delete_that_was_settled_before_it_was_marked_is_not_taken_up_again(zone: AgentZone) -> None:
    app = await have_app(zone)

    def away(txn: Txn, moment: Moment) -> None:
        if touches(txn, f"app/{app}") or (zone.jobs.running(f"app-{app}") and touches(txn, "job/")):
            raise StoreUnavailable("etcd is away")

    zone.store.fault = away
    with pytest.raises(FedmarketError):
        await zone.apps.delete(zone.admin, app, ticket_of(zone))
    zone.store.fault = lambda txn, moment: None
    await zone.requests.refuse(REQUEST, NEVER_MADE)

    await zone.jobs.resume_all()
    await until_ended(zone)
    assert zone.apps.show(app).message.state == APP_STATE_READY


async def test_a_delete_that_the_agents_end_breaks_off_says_that_it_goes_on(tmp_path: Path) -> None:
    store = MemoryStore()
    async with AgentZone(tmp_path, store=store, agent="first") as zone:
        await zone.market("m")
        await zone.image("i")
        await have_app(zone)
        entered, proceed = asyncio.Event(), asyncio.Event()
        remove = zone.apps._deletion._subject.remove

        async def slow(message: object) -> None:
            entered.set()
            await proceed.wait()
            await remove(message)  # type: ignore[arg-type]

        zone.apps._deletion._subject.remove = slow  # type: ignore[method-assign]
        deleting = asyncio.create_task(zone.apps.delete(zone.admin, "a"))
        await entered.wait()
    with pytest.raises(Unavailable, match="goes on"):
        await deleting
    async with AgentZone(tmp_path, store=store, agent="second") as zone:
        await zone.recovery.look(alone=False)
        async with asyncio.timeout(BOUND):
            while zone.view.named(AppRecord, "a"):
                await asyncio.sleep(0.01)
    assert not [path for path in zone.blobs() if path.is_relative_to(zone.layout.markets)]
