"""An agent's services over stores in memory and directories of a test: everything but processes and ports."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import aiohttp

from drivers.datastore.convert import ConvertSettings
from federation.catalog import Catalog
from federation.commit import Origin
from federation.head import FEDERATION, PRIVATE, CatalogId
from federation.keys import Keyspace
from federation.memory import MemoryStore
from federation.opening import open_catalog
from federation.requests import Requests
from federation.store import Txn, TxnResult
from federation.view import Found, View
from federation.writer import Writer
from fedmarket.pb.fedmarket.v1.common_pb2 import SCOPE_FEDERATION
from fedmarket.pb.fedmarket.v1.peer_pb2 import LocateResponse
from fedmarket.pb.fedmarket.v1.record_pb2 import DatastoreRecord, ImageRecord, MarketRecord
from tests.support.federation import WRITER, NoMark, key_of
from zone_agent.config import DatastoreSettings
from zone_agent.config.layout import Layout
from zone_agent.duties import Duties
from zone_agent.jobs import JobBook, Jobs, JobSettings
from zone_agent.services.apps import AppService
from zone_agent.services.catalogs import Catalogs
from zone_agent.services.clones import CloneService
from zone_agent.services.datastores import DatastoreService
from zone_agent.services.downloads import DownloadService
from zone_agent.services.exports import ExportService
from zone_agent.services.images import ImageService, NewImage
from zone_agent.services.jobs import JobService, JobServiceSettings
from zone_agent.services.locate import Locator
from zone_agent.services.markets import MarketService
from zone_agent.services.mover import Mover
from zone_agent.services.principal import Principal
from zone_agent.services.recovery import Recovery
from zone_agent.stores import Stores
from zone_agent.transfer.settings import TransferSettings
from zone_agent.transfer.signing import UrlSigner
from zone_agent.transfer.worker.perform import perform

BOUND_SECONDS = 10.0


class NoPeers:
    """Other zones, none of which is asked."""

    async def locate(self, zone: int, app_id: int) -> LocateResponse:
        """Fail the test."""
        raise AssertionError(f"zone {zone} was asked for app {app_id}")


class HeldStore(MemoryStore):
    """A store that can hold one transaction in flight: the n-th from when it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self.proceed = asyncio.Event()
        self._left = 0

    def hold(self, n: int) -> None:
        """Hold the n-th transaction from now until `proceed` is set."""
        self._left = n

    async def txn(self, txn: Txn) -> TxnResult:
        """Apply a transaction, perhaps later."""
        self._left -= 1
        if self._left == 0:
            self.reached.set()
            await self.proceed.wait()
        return await super().txn(txn)


class RecordingStores(Stores):
    """Stores that note each time that a driver is asked for: whoever asked for none, moved no byte."""

    def __init__(self, zone: int, layout: Layout) -> None:
        super().__init__(zone, layout)
        self.asked: list[str] = []

    def market_driver(self, market_id: int, driver: str, attributes: dict[str, str]) -> object:
        """Note it, and return the driver."""
        self.asked.append(f"market {market_id}")
        return super().market_driver(market_id, driver, attributes)

    def datastore(self, datastore: Found[DatastoreRecord]) -> object:
        """Note it, and return the driver."""
        self.asked.append(f"datastore {datastore.id}")
        return super().datastore(datastore)


class AgentZone:
    """One agent of one zone. Use as a context; several may share the store, as agents of one zone do."""

    def __init__(
        self,
        directory: Path,
        zone: int = 0,
        *,
        store: MemoryStore | None = None,
        replicas: dict[int, Catalog] | None = None,
        agent: str = "agent",
    ) -> None:
        self.zone = zone
        self.store = store or MemoryStore()
        self.key = key_of(zone)
        self.keyspace = Keyspace("/fedmarket/1/", zone)
        self.own = Catalog(zone, self.keyspace.own, self.key.public, own=True)
        self.private = Catalog(zone, self.keyspace.private, self.key.public, own=True)
        self.view = View(self.own, self.private, replicas or {})
        writers = {kind: self._writer(kind, agent) for kind in (FEDERATION, PRIVATE)}
        self._writers = writers
        self.catalogs = Catalogs(self.view, writers[FEDERATION], writers[PRIVATE])
        self.duties = Duties(self.store, self.keyspace, agent, ttl_seconds=5.0, check_seconds=0.01)
        self.layout = Layout(directory)
        self.stores = RecordingStores(zone, self.layout)
        self.book = JobBook(self.store, self.keyspace)
        self.jobs = Jobs(self.duties, self.book, JobSettings(write_seconds=0.02, poll_seconds=0.01))
        self.job_service = JobService(
            self.jobs, self.book, JobServiceSettings(watch_seconds=0.01, poll_seconds=0.01, keep=5)
        )
        self.mover = Mover(perform, TransferSettings(), ConvertSettings())
        self.requests = Requests(self.store, self.keyspace)
        self.images = ImageService(self.catalogs, self.stores, self.jobs, self.requests)
        self.clones = CloneService(self.catalogs, self.jobs, self.images, self.mover)
        self.apps = AppService(self.catalogs, self.stores, self.jobs, self.images, self.mover, self.requests)
        self.markets = MarketService(self.catalogs, self.stores)
        self.datastores = DatastoreService(self.catalogs, self.stores)
        self.downloads = self.downloads_of(None, lambda: "")
        self.recovery = Recovery(
            self.catalogs,
            self.stores,
            self.jobs,
            self.images,
            self.apps.upload,
            self.downloads,
            self.duties,
            interval_seconds=3600,
        )
        self.admin = Principal(zone, 0, 0)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            for kind in (FEDERATION, PRIVATE):
                await open_catalog(self.store, self._origin(kind, "agent"), NoMark(), 0)  # type: ignore[arg-type]
            parts = [
                self.own.follow(self.store),
                self.private.follow(self.store),
                *(writer.run() for writer in self._writers.values()),
                self.duties.run(),
                self.jobs.run(),
            ]
            self._running = [tasks.create_task(part) for part in parts]
            await self.own.wait_for((1, 1), BOUND_SECONDS)
            await self.private.wait_for((1, 1), BOUND_SECONDS)
            await self.datastores.reconcile(
                [DatastoreSettings(name="default", path=self.layout.datastores / "default")], self.admin
            )
            self._exits = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in reversed(self._running):
            task.cancel()
        await self._exits.aclose()

    async def market(self, name: str = "m") -> Found[MarketRecord]:
        """Create a federated http market."""
        return await self.markets.create(self.admin, name, "http", SCOPE_FEDERATION, {})

    async def image(self, name: str = "i", data: bytes = b"x" * 5000) -> Found[ImageRecord]:
        """Import an image."""
        return await self.images.import_stream(self.admin, NewImage(name, "default", len(data)), chunks_of(data))

    def exports(self, session: aiohttp.ClientSession, base_url: Callable[[], str]) -> ExportService:
        """Return the service that exports."""
        return ExportService(
            self.catalogs,
            self.jobs,
            self.images,
            self._locator(base_url),
            self.mover,
            session,
            TransferSettings(),
        )

    def downloads_of(self, session: aiohttp.ClientSession | None, base_url: Callable[[], str]) -> DownloadService:
        """Return the service that stores apps as files."""
        return DownloadService(
            self.view, self.jobs, self._locator(base_url), self.mover, self.layout.directory / "downloads"
        )

    def _locator(self, base_url: Callable[[], str]) -> Locator:
        signer = UrlSigner(b"k" * 32, lambda: 0.0)
        return Locator(self.view, self.stores, NoPeers(), signer, base_url, 3600)

    def blobs(self) -> list[Path]:
        """Return every file below the markets and datastores, staged ones included."""
        return sorted(
            path for root in (self.layout.markets, self.layout.datastores) for path in root.rglob("*") if path.is_file()
        )

    def staged(self) -> list[Path]:
        """Return what lies in staging."""
        return [path for path in self.blobs() if path.parent.name == ".staging"]

    def _origin(self, kind: CatalogId, agent: str) -> Origin:
        prefix = self.keyspace.own if kind == FEDERATION else self.keyspace.private
        return Origin(self.zone, kind, prefix, self.key, agent, self.keyspace.requests)

    def _writer(self, kind: CatalogId, agent: str) -> Writer:
        catalog = self.own if kind == FEDERATION else self.private
        return Writer(self.store, catalog, self._origin(kind, agent), WRITER)


async def chunks_of(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    """Yield data as a client streams it."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
        await asyncio.sleep(0)


def touches(txn: Txn, part: str) -> bool:
    """Say whether a transaction writes or deletes a key that holds `part`."""
    return any(part in key for key in [*txn.puts, *txn.deletes])


def name_of_blob() -> str:
    """Return an object name that is free."""
    return secrets.token_hex(16)
