"""kill -9 at every point that matters: nothing stays half done, and no job is lost.

Each agent dies at one failpoint, by SIGKILL, and is started again without it. Then every job has ended, what was made
is READY, in ERROR or gone, nothing is LOCKED or held, the stores hold exactly what records name, and one etcd runs.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

import grpc
import pytest

from fedmarket.failpoints import VARIABLE, Failpoint
from fedmarket.pb.fedmarket.v1 import app_pb2, change_pb2, image_pb2, job_pb2
from fedmarket.pb.fedmarket.v1.change_pb2_grpc import ChangeServiceStub
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_ERROR,
    APP_STATE_READY,
    IMAGE_STATE_ERROR,
    IMAGE_STATE_READY,
)
from tests.support.native import Native, ref
from tests.support.zones import BOUND, Zone, runs, until, yard

BYTES = b"fedmarket" * 5000
F = Failpoint


@dataclass(frozen=True)
class Case:
    """What an agent is doing when it dies, and what is to become of it."""

    point: Failpoint
    provoke: Callable[[Zone, str], object]
    """Makes the agent do it; gets a name that nothing else has."""
    outcome: Callable[[Native, str], bool]
    prepare: Callable[[Zone, str], object] = lambda zone, name: None
    """What must be there before; none of it passes the point."""
    nth: int = 1

    @property
    def id(self) -> str:
        return f"{self.point.value}@{self.nth}-{self.provoke.__name__}"


# -- what is done


def create(zone: Zone, name: str) -> str:
    return zone.native.begin_app(name, "base", "m").job_id


def export(zone: Zone, name: str) -> None:
    zone.native.begin_export("source", name)


def export_converted(zone: Zone, name: str) -> None:
    zone.native.begin_export("source", name, "qcow2")


def import_image(zone: Zone, name: str) -> None:
    zone.native.import_image(name, BYTES)


def clone(zone: Zone, name: str) -> None:
    request = image_pb2.CloneImageRequest(image=ref("base"), name=name)
    zone.native.call(zone.native.images.Clone, request)


def download(zone: Zone, name: str) -> None:
    zone.native.call(zone.native.apps.Fetch, app_pb2.FetchAppRequest(app=ref("source"), file=name))


def delete_app(zone: Zone, name: str) -> None:
    zone.native.delete_app(name)


def delete_by_request(zone: Zone, name: str) -> None:
    request = change_pb2.ChangeRequest(
        kind="app", ref=ref(name), verb=change_pb2.Verb(delete=change_pb2.Delete()), request_id=request_id(name)
    )
    zone.native.call(ChangeServiceStub(zone.native.channel).Change, request)


def request_id(name: str) -> str:
    return name[:64]


def delete_image(zone: Zone, name: str) -> None:
    zone.native.delete_image(name)


def have_app(zone: Zone, name: str) -> None:
    zone.native.create_app(name, "base", "m")


def have_broken_image(zone: Zone, name: str) -> Path:
    """Import an image whose bytes then change: no app can be made from it."""
    made = Path(zone.native.import_image(f"broken-{name}", BYTES).source)
    made.write_bytes(BYTES[::-1])
    return made


def create_in_vain(zone: Zone, name: str) -> str:
    return zone.native.begin_app(name, f"broken-{name}", "m").job_id


def retry(zone: Zone, name: str) -> None:
    """Create an app in vain, mend its image, and do it again."""
    image = have_broken_image(zone, name)
    job_id = create_in_vain(zone, name)
    assert zone.native.wait(job_id).state == job_pb2.JOB_STATE_FAILED
    image.write_bytes(BYTES)
    zone.native.call(zone.native.jobs.Retry, job_pb2.RetryJobRequest(id=job_id))


# -- what becomes of it


def app_ready(native: Native, name: str) -> bool:
    app = native.app(name)
    return (app.state, app.size_bytes, app.error) == (APP_STATE_READY, len(BYTES), "")


def app_failed(native: Native, name: str) -> bool:
    app = native.app(name)
    return app.state == APP_STATE_ERROR and bool(app.error)


def app_gone(native: Native, name: str) -> bool:
    return name not in native.app_names()


def app_gone_as_asked(native: Native, name: str) -> bool:
    asked = change_pb2.ResolveRequest(request_id=request_id(name))
    return app_gone(native, name) and native.call(ChangeServiceStub(native.channel).Resolve, asked).done


def image_ready(native: Native, name: str) -> bool:
    image = native.image(name)
    return image.state == IMAGE_STATE_READY and not image.error and Path(image.source).is_file()


def image_failed(native: Native, name: str) -> bool:
    image = native.image(name)
    return image.state == IMAGE_STATE_ERROR and bool(image.error)


def image_gone(native: Native, name: str) -> bool:
    return name not in native.image_names()


def file_there(native: Native, name: str) -> bool:
    (job,) = [job for job in jobs(native) if job.target == name]
    return job.state == job_pb2.JOB_STATE_DONE


CASES = [
    Case(F.COMMIT_BEFORE, create, app_gone),  # LOCKED
    Case(F.COMMIT_AFTER, create, app_failed),
    Case(F.COMMIT_AFTER, create, app_ready, nth=3),  # the image is free
    Case(F.COMMIT_AFTER, create, app_ready, nth=4),  # READY
    Case(F.COMMIT_BEFORE, delete_image, image_gone, import_image, nth=4),  # its record is dropped; two of the import
    Case(F.JOB_CLAIMED, create, app_failed),
    Case(F.JOB_WRITTEN, create, app_ready),
    Case(F.JOB_BEGUN, export, image_ready),
    Case(F.JOB_WORKED, clone, image_ready),
    Case(F.JOB_JUDGED, create_in_vain, app_failed, have_broken_image),
    Case(F.JOB_UNDONE, create_in_vain, app_failed, have_broken_image),
    Case(F.JOB_ENDED, create, app_ready),
    Case(F.JOB_REOPENED, retry, app_ready),
    Case(F.JOB_PREPARED, retry, app_ready),
    Case(F.CREATE_LOCKED, create, app_failed),
    Case(F.CREATE_HELD, create, app_failed),
    Case(F.CREATE_COPIED, create, app_ready),
    Case(F.CREATE_PUBLISHED, create, app_ready),
    Case(F.CREATE_RELEASED, create, app_ready),
    Case(F.CREATE_READY, create, app_ready),
    Case(F.EXPORT_LOCKED, export, image_failed),
    Case(F.EXPORT_FETCHED, export, image_ready),
    Case(F.EXPORT_CONVERTED, export_converted, image_ready),
    Case(F.EXPORT_PUBLISHED, export, image_ready),
    Case(F.EXPORT_READY, export, image_ready),
    Case(F.IMPORT_LOCKED, import_image, image_failed),
    Case(F.IMPORT_RECEIVED, import_image, image_failed),
    Case(F.IMPORT_PUBLISHED, import_image, image_failed),
    Case(F.IMPORT_READY, import_image, image_ready),
    Case(F.DELETE_MARKED, delete_app, app_gone, have_app),
    Case(F.DELETE_MARKED, delete_by_request, app_gone_as_asked, have_app),
    Case(F.DELETE_REMOVED, delete_app, app_gone, have_app),
    Case(F.DELETE_REMOVED, delete_image, image_gone, import_image),
    Case(F.DELETE_DROPPED, delete_app, app_gone, have_app),
    Case(F.DOWNLOAD_FETCHED, download, file_there),
    Case(F.DOWNLOAD_PUBLISHED, download, file_there),
    Case(F.CLONE_LOCKED, clone, image_failed),
    Case(F.CLONE_HELD, clone, image_failed),
    Case(F.CLONE_COPIED, clone, image_ready),
    Case(F.CLONE_PUBLISHED, clone, image_ready),
    Case(F.CLONE_RELEASED, clone, image_ready),
    Case(F.CLONE_READY, clone, image_ready),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zone]:
    """A zone with a market, an image and an app of it."""
    with yard(tmp_path_factory.mktemp("failpoints")) as zones:
        zone = zones.make(0, "berlin")
        zone.start()
        zone.native.create_market("m")
        zone.native.import_image("base", BYTES)
        zone.native.create_app("source", "base", "m")
        yield zone


@pytest.fixture
def zone(shared: Zone) -> Iterator[Zone]:
    """The zone, whose agent ends so that it can be started with a failpoint."""
    if shared.agent.poll() is None:
        shared.kill()
    yield shared
    if shared.agent.poll() is None:
        shared.kill()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_agent_that_dies_at_a_point_leaves_nothing_half_done(
    zone: Zone, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = case.id.replace("@", "-")
    monkeypatch.setenv(VARIABLE, f"{case.point.value}=kill@{case.nth}")
    zone.start()
    etcd = zone.etcd_pid
    case.prepare(zone, name)
    with suppress(grpc.RpcError):
        case.provoke(zone, name)

    assert zone.agent.wait(BOUND) == -SIGKILL
    until(lambda: not runs(etcd), "its etcd ends with the agent")

    monkeypatch.delenv(VARIABLE)
    zone.start()
    native = zone.native
    until(lambda: not half_done(native), "nothing is half done")
    assert case.outcome(native, name)
    assert stored(zone) == named(zone)
    assert etcds(zone) == [zone.etcd_pid]


def jobs(native: Native) -> list[job_pb2.Job]:
    return list(native.call(native.jobs.List, job_pb2.ListJobsRequest(size=1000)).jobs)


def half_done(native: Native) -> list[str]:
    """Return what waits for something: jobs, apps and images."""
    at_rest = {APP_STATE_READY, APP_STATE_ERROR}, {IMAGE_STATE_READY, IMAGE_STATE_ERROR}
    apps = native.call(native.apps.List, app_pb2.ListAppsRequest()).apps
    images = native.call(native.images.List, image_pb2.ListImagesRequest()).images
    return [
        *(f"job {job.id}" for job in jobs(native) if not job.HasField("ended")),
        *(f"app {app.name}" for app in apps if app.state not in at_rest[0]),
        *(f"image {image.name}" for image in images if image.state not in at_rest[1]),
    ]


def stored(zone: Zone) -> list[str]:
    """Return the names of all files in the zone's stores, those in staging with their directory."""
    files = zone.files(of=("markets", "datastores", "downloads"))
    return sorted(file if ".staging" in file else Path(file).name for file in files)


def named(zone: Zone) -> list[str]:
    """Return the names of the files that records speak of."""
    native = zone.native
    apps = native.call(native.apps.List, app_pb2.ListAppsRequest()).apps
    images = native.call(native.images.List, image_pb2.ListImagesRequest()).images
    of_apps = [app.source.rpartition("/")[2] for app in apps if app.state == APP_STATE_READY]
    of_images = [Path(image.source).name for image in images if image.state == IMAGE_STATE_READY]
    fetched = [job.target for job in jobs(native) if job.target and job.state == job_pb2.JOB_STATE_DONE]
    return sorted([*of_apps, *of_images, *fetched])


def etcds(zone: Zone) -> list[int]:
    """Return the processes that are an etcd of the zone's directory."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and runs(int(process.name)):
            with suppress(OSError):
                words = (process / "cmdline").read_bytes().decode().split("\0")
                if Path(words[0]).name == "etcd" and any(str(zone.directory) in word for word in words):
                    found.append(int(process.name))
    return found
