"""Downloads to the agent: an app's bytes, verified, as a file of its host."""

from pathlib import Path

from drivers.files import BlobDirectory
from drivers.names import check_object_name
from federation.view import Found, View
from fedmarket.digests import Hasher
from fedmarket.errors import AlreadyExists, BadInput, FedmarketError, NotFound
from fedmarket.failpoints import Failpoint, hit
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_KIND_DOWNLOAD
from fedmarket.pb.fedmarket.v1.record_pb2 import AppRecord
from fedmarket.threads import in_thread, staged, uninterrupted
from zone_agent.jobs import Job, Jobs, job_for, thing
from zone_agent.services.leftovers import clear, try_to_clear
from zone_agent.services.locate import Locator, require_ready
from zone_agent.services.mover import CHUNK, Mover
from zone_agent.services.principal import Principal

FILE_MODE = 0o600


class DownloadService:
    """The use case, and what does its jobs: see `zone_agent.jobs.Work`. They make a file, and lock no record."""

    def __init__(self, view: View, jobs: Jobs, locator: Locator, mover: Mover, directory: Path) -> None:
        self._view = view
        self._jobs = jobs
        self._locator = locator
        self._mover = mover
        self.store = BlobDirectory(directory, file_mode=FILE_MODE)
        jobs.serve(JOB_KIND_DOWNLOAD, "app", self)

    @uninterrupted
    async def fetch(self, principal: Principal, app_ref: int | str, file: str) -> tuple[Path, Job]:
        """Begin to store an app's bytes as a file of that name in the directory of downloads; return where.

        Raises BadInput for what is no plain file name, AlreadyExists, Refused if nothing can be written there.
        """
        app = self._view.resolve(AppRecord, app_ref)
        require_ready(self._view, app)
        path = self.store.root / _plain(file)
        await in_thread(self.store.check)
        if await in_thread(path.exists):
            raise AlreadyExists(f"{path} exists already, and a download replaces nothing: choose another name")
        record = job_for(JOB_KIND_DOWNLOAD, thing(app), principal)
        record.target = file
        return path, await self._jobs.start(record)

    def check_retry(self, job: Job) -> None:
        """Raise Refused or NotFound if the app cannot be read now."""
        require_ready(self._view, self._app(job))

    async def resume(self, job: Job) -> bool:
        """Clear staging; a file that is there and is the app's was published before the agent died."""
        await clear(self.store, job.fence, "")
        return not await in_thread(lambda: self._is_whole(job))

    async def run(self, job: Job) -> None:
        """Fetch the bytes, and give them their name."""
        location = await self._locator.locate(self._app(job))
        job.begin("fetching", location.size)
        async with staged(lambda: self.store.stage(job.record.target, job.staging, location.size)) as staging:
            await self._mover.fetch(location.urls, location.size, location.sha256, staging, job)
            hit(Failpoint.DOWNLOAD_FETCHED)
            job.begin("publishing", location.size)
            await in_thread(staging.commit)
        hit(Failpoint.DOWNLOAD_PUBLISHED)

    async def fail(self, job: Job, error: FedmarketError) -> None:  # noqa: ARG002 -- the job's record holds it
        """Leave nothing in staging."""
        await try_to_clear(self.store, job.fence, "")

    def _is_whole(self, job: Job) -> bool:
        app = self._app(job).message
        try:
            file = self.store.open(job.record.target)
        except NotFound:
            return False
        with file, Hasher(md5=False) as hasher:
            while block := file.read(CHUNK):
                hasher.update(block)
            return hasher.finish().sha256 == app.sha256

    def _app(self, job: Job) -> Found[AppRecord]:
        of = job.record.object
        app = self._view.get(AppRecord, of.id)
        if app is None or app.record.uid != of.uid:
            raise NotFound(f"app {of.id} was deleted meanwhile: download another one")
        return app


def _plain(file: str) -> str:
    try:
        return check_object_name(file)
    except BadInput:
        raise BadInput(
            f"{file[:40]!r} is no plain file name: give letters, digits, '.', '_' and '-', without a dot in front"
        ) from None
