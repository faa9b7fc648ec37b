"""Jobs as an operator meets them: listed, watched, cancelled, retried; downloads, clones and deletes as jobs."""

import json
from pathlib import Path

import grpc
import pytest

from fedmarket.pb.fedmarket.v1 import app_pb2, image_pb2, job_pb2
from fedmarket.pb.fedmarket.v1.record_pb2 import APP_STATE_ERROR, APP_STATE_READY, IMAGE_STATE_READY
from tests.support.native import Native, ref, refused
from tests.support.zones import Zone, until

BYTES = b"jobs" * 10_000
SPARSE = 256 << 20
"""An image that takes long enough to copy to be cancelled meanwhile."""


@pytest.fixture
def zone(alone: Zone) -> Zone:
    """The shared zone, with a market `jobs` and an app `jobs` of an image `jobs`."""
    native = alone.native
    if "jobs" not in native.market_names():
        native.create_market("jobs")
        native.import_image("jobs", BYTES)
        native.create_app("jobs", "jobs", "jobs")
    return alone


def job_of(native: Native, kind: job_pb2.JobKind.ValueType) -> job_pb2.Job:
    """Return the newest job of a kind."""
    return native.call(native.jobs.List, job_pb2.ListJobsRequest(kinds=[kind], size=1)).jobs[0]


def test_every_job_is_remembered_with_who_asked_and_what_came_of_it(zone: Zone) -> None:
    listed = zone.ask("job", "list", "--all")
    created = next(job for job in listed if job["kind"] == "create" and job["object_name"] == "jobs")
    assert (created["state"], created["attempts"], created["owner_id"], created["error"]) == ("done", 1, 0, "")
    assert created["done_bytes"] == created["total_bytes"] == len(BYTES)
    assert created["started"] <= created["ended"]
    assert zone.ask("job", "show", created["id"]) == created
    assert created["id"] not in [job["id"] for job in zone.ask("job", "list")]  # it has ended
    watched = zone.cli("job", "watch", created["id"], "--json").out.splitlines()
    assert [json.loads(line) for line in watched] == [created]
    assert zone.fails(4, "job", "cancel", created["id"]) == (
        f"job {created['id']} has ended already, it is DONE: there is nothing to cancel"
    )
    assert "is done" in zone.fails(4, "job", "retry", created["id"])
    assert "job list" in zone.fails(3, "job", "show", "nowhere")


def test_a_job_is_cancelled_and_leaves_nothing_and_runs_again(zone: Zone, tmp_path: Path) -> None:
    native = zone.native
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(SPARSE)
    image = native.import_image("cancelled", big)
    before = zone.files(of=("markets",))
    begun = native.begin_app("cancelled", image.id, "jobs")
    until(lambda: zone.files(of=("markets",)) != before, "bytes are on their way")

    assert zone.ask("job", "cancel", begun.job_id) == {"id": begun.job_id, "state": "cancelled"}
    assert zone.files(of=("markets",)) == before
    app = native.app("cancelled")
    assert (app.state, app.error) == (APP_STATE_ERROR, "the job was cancelled: retry it if it is still wanted")
    assert native.image("cancelled").state == IMAGE_STATE_READY

    zone.ask("job", "retry", begun.job_id)
    assert zone.cli("job", "watch", begun.job_id).status == 0
    app = native.app("cancelled")
    assert (app.state, app.sha256, app.error) == (APP_STATE_READY, image.sha256, "")
    native.delete_app("cancelled")
    native.delete_image("cancelled")
    assert zone.files(of=("markets",)) == before


def test_a_download_to_the_agent_is_a_verified_file_of_its_directory(zone: Zone) -> None:
    told = zone.ask("app", "download", "jobs", "--to-agent", "jobs.raw")
    file = zone.directory / "downloads" / "jobs.raw"
    assert told["path"] == str(file)
    assert file.read_bytes() == BYTES
    assert [path.name for path in file.parent.iterdir() if path.is_file()] == ["jobs.raw"]
    again = zone.fails(4, "app", "download", "jobs", "--to-agent", "jobs.raw")
    assert "exists already" in again
    for name in ("../jobs.raw", "/tmp/jobs.raw", ".jobs", "a b"):
        assert "no plain file name" in zone.fails(2, "app", "download", "jobs", "--to-agent", name)


def test_a_download_whose_app_has_lost_its_bytes_fails_and_leaves_nothing(zone: Zone) -> None:
    native = zone.native
    app = native.create_app("lost", "jobs", "jobs")
    stored = zone.directory / "markets" / str(app.market_id) / app.source.rpartition("/")[2]
    stored.write_bytes(BYTES[::-1])
    begun = native.call(native.apps.Fetch, app_pb2.FetchAppRequest(app=ref("lost"), file="lost.raw"))
    ended = native.wait(begun.job_id)
    assert (ended.state, ended.code) == (job_pb2.JOB_STATE_FAILED, "corrupt")
    assert not [name for name in zone.files(of=("downloads",)) if "lost" in name]
    stored.write_bytes(BYTES)
    native.call(native.jobs.Retry, job_pb2.RetryJobRequest(id=begun.job_id))
    assert native.wait(begun.job_id).state == job_pb2.JOB_STATE_DONE
    assert (zone.directory / "downloads" / "lost.raw").read_bytes() == BYTES
    native.delete_app("lost")


def test_a_clone_is_an_image_of_its_own(zone: Zone) -> None:
    native = zone.native
    made = zone.ask("image", "clone", "jobs", "--name", "dolly")
    first = native.image("jobs")
    clone = native.image("dolly")
    assert made["id"] == clone.id != first.id
    assert (clone.state, clone.sha256, clone.format, clone.type) == (
        IMAGE_STATE_READY,
        first.sha256,
        first.format,
        first.type,
    )
    assert Path(clone.source).read_bytes() == BYTES
    assert clone.source != first.source
    native.delete_image("dolly")
    assert native.image("jobs").state == IMAGE_STATE_READY
    assert not Path(clone.source).exists()
    with refused(grpc.StatusCode.ALREADY_EXISTS, "already-exists"):
        native.call(native.images.Clone, image_pb2.CloneImageRequest(image=ref("jobs"), name="jobs"))


def test_a_delete_that_cannot_be_completed_names_its_cause_and_can_be_repeated(zone: Zone, tmp_path: Path) -> None:
    native = zone.native
    public, elsewhere = tmp_path / "public", tmp_path / "elsewhere"
    public.mkdir()
    market = native.create_market("unmounted", PUBLIC_DIR=str(public))
    app = native.create_app("stays", "jobs", "unmounted")
    public.rename(elsewhere)

    sentence = zone.fails(4, "app", "delete", str(app.id))
    assert str(public) in sentence
    left = native.app(app.id)
    assert (left.state, left.error) == (APP_STATE_ERROR, f"it could not be deleted: {sentence}")
    job = job_of(native, job_pb2.JOB_KIND_DELETE)
    assert (job.state, job.object_id, job.error) == (job_pb2.JOB_STATE_FAILED, app.id, sentence)

    elsewhere.rename(public)
    zone.ask("job", "retry", job.id)
    assert native.wait(job.id).state == job_pb2.JOB_STATE_DONE
    assert "stays" not in native.app_names()
    assert [path for path in public.rglob("*") if path.is_file()] == []
    native.delete_market(market.id)


def test_a_delete_that_is_refused_leaves_no_job(zone: Zone) -> None:
    native = zone.native
    before = len(zone.ask("job", "list", "--all", "--kind", "delete"))
    with refused(grpc.StatusCode.NOT_FOUND, "not-found"):
        native.delete_app("nothing")
    assert len(zone.ask("job", "list", "--all", "--kind", "delete")) == before
