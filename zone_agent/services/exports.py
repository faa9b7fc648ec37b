"""Bringing an app's bytes here: export into a datastore of this zone, download to whoever asks."""

from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path

import aiohttp

from drivers.capabilities import OnDisk, Staging, Writable
from drivers.datastore.convert import ConvertSettings, convert
from drivers.datastore.formats import HEADER_BYTES, Format, ImageFormat, detect
from federation.view import Found
from fedmarket.digests import Digests, Hasher
from fedmarket.errors import BadInput, FedmarketError, Refused
from fedmarket.pb.fedmarket.v1.record_pb2 import AppRecord, DatastoreRecord, ImageRecord
from fedmarket.threads import in_thread, staged, uninterrupted
from zone_agent.jobs import Job, JobKind, Jobs
from zone_agent.services.catalogs import Catalogs
from zone_agent.services.images import ImageService, NewImage
from zone_agent.services.locate import Location, Locator, require_ready
from zone_agent.services.principal import Principal
from zone_agent.stores import Stores
from zone_agent.transfer.fetch import fetch
from zone_agent.transfer.relay import stream
from zone_agent.transfer.settings import TransferSettings

CHUNK = 1 << 20
"""Bytes of one message of a download."""


class ExportService:
    """The use cases that read apps of any zone."""

    def __init__(
        self,
        catalogs: Catalogs,
        stores: Stores,
        jobs: Jobs,
        images: ImageService,
        locator: Locator,
        session: aiohttp.ClientSession,
        transfer: TransferSettings,
        conversion: ConvertSettings,
    ) -> None:
        self._view = catalogs.view
        self._stores = stores
        self._jobs = jobs
        self._images = images
        self._locator = locator
        self._session = session
        self._transfer = transfer
        self._conversion = conversion

    @uninterrupted
    async def export(
        self, principal: Principal, app_ref: int | str, datastore_ref: int | str, name: str, wanted: str
    ) -> tuple[Found[ImageRecord], Job]:
        """Begin to bring an app into a datastore of this zone: the image is LOCKED until the job has ended.

        `wanted` is the format it is to have, empty for that of the app.
        """
        app = self._view.resolve(AppRecord, app_ref)
        require_ready(app)
        target = _format(wanted) if wanted else None
        datastore = self._view.resolve(DatastoreRecord, datastore_ref)
        message = app.message
        new = NewImage(name, datastore.id, message.size_bytes, path=message.source)
        image_id = await self._images.lock(
            principal,
            new,
            datastore,
            FROM_APP=str(app.id),
            FROM_APP_MD5=message.md5.hex(),
            FROM_APP_NAME=message.name,
        )
        image = self._images.show(image_id)
        job = Job(JobKind.EXPORT, image_id)
        try:
            await self._jobs.start(
                job,
                partial(self._run, app, datastore, image.message.object, target),
                partial(self._images.fail, image_id),
            )
        except FedmarketError:
            await self._images.drop(image_id)
            raise
        return image, job

    async def download(self, app_ref: int | str, offset: int) -> tuple[Found[AppRecord], AsyncGenerator[bytes, None]]:
        """Return an app and its bytes from `offset` on. The reader checks their digest."""
        app = self._view.resolve(AppRecord, app_ref)
        location = await self._locator.locate(app)
        return app, stream(
            self._session, location.urls, location.size, self._transfer, offset=offset, chunk_bytes=CHUNK
        )

    async def _run(
        self, app: Found[AppRecord], datastore: Found[DatastoreRecord], name: str, target: Format | None, job: Job
    ) -> None:
        location = await self._locator.locate(app)
        store = self._stores.datastore(datastore)
        if not isinstance(store, Writable):
            raise Refused(f"datastore {datastore.message.name!r} is read only: choose another one")
        job.begin("fetching", location.size)
        async with staged(lambda: store.stage(name, job.fence, location.size)) as staging:
            found = await self._fetch(location, staging, job)
            digests = Digests(location.sha256, app.message.md5, location.size)
            if target is None or target is found.format:
                job.begin("publishing", location.size)
                await in_thread(staging.commit)
            else:
                digests, found = await self._convert(store, name, staging, found, target, job)
        await self._images.ready(job.object_id, digests, found)

    async def _fetch(self, location: Location, staging: Staging, job: Job) -> ImageFormat:
        """Pull the bytes into staging, verified, and say what they are."""
        head = bytearray(min(HEADER_BYTES, location.size))

        def write(offset: int, data: bytes) -> None:
            staging.write(offset, data)
            if offset < len(head):
                part = data[: len(head) - offset]
                head[offset : offset + len(part)] = part

        await fetch(self._session, location.urls, location.size, location.sha256, write, self._transfer, job.progress)
        return detect(bytes(head), location.size)

    async def _convert(
        self, store: object, name: str, staging: Staging, found: ImageFormat, target: Format, job: Job
    ) -> tuple[Digests, ImageFormat]:
        """Convert verified bytes that lie in staging, and commit the result instead of them."""
        source = getattr(staging, "path", None)
        if not isinstance(store, OnDisk) or not isinstance(source, Path):
            raise Refused(f"this datastore cannot convert to {target}: export without a format")
        job.begin("converting", found.virtual_size)
        progress = _fraction_of(found.virtual_size, job.progress)

        async with staged(lambda: store.stage_file(name, f"{job.fence}-{target}")) as converted:
            await in_thread(
                lambda: convert(
                    source,
                    found.format,
                    converted.path,
                    target,
                    progress=progress,
                    cancelled=job.is_cancelled,
                    settings=self._conversion,
                ),
                lambda: setattr(job, "cancelled", True),
            )
            digests, head = await in_thread(lambda: _hash(converted.path))
            await in_thread(converted.commit)
        return digests, detect(head, digests.size)


def _format(text: str) -> Format:
    try:
        return Format(text)
    except ValueError:
        raise BadInput(f"there is no image format {text[:20]!r}: choose one of {', '.join(Format)}") from None


def _fraction_of(total: int, progress: Callable[[int], None]) -> Callable[[float], None]:
    return lambda fraction: progress(int(total * fraction))


def _hash(path: Path) -> tuple[Digests, bytes]:
    """Return the digests and the first bytes of a file. Blocks."""
    with path.open("rb") as file, Hasher() as hasher:
        head = file.read(HEADER_BYTES)
        file.seek(0)
        while block := file.read(CHUNK):
            hasher.update(block)
        return hasher.finish(), head
