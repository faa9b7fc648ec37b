"""The native gRPC server: all services, health and reflection on one port."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from fedmarket.errors import ConfigError
from fedmarket.pb.fedmarket.v1 import (
    app_pb2,
    app_pb2_grpc,
    change_pb2,
    change_pb2_grpc,
    image_pb2,
    image_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    market_pb2,
    market_pb2_grpc,
    zone_pb2,
    zone_pb2_grpc,
)
from zone_agent.certificates import GrpcTls
from zone_agent.config import GrpcSettings
from zone_agent.faces.native.changes import Changes
from zone_agent.faces.native.gate import Gate
from zone_agent.faces.native.jobs import JobServicer
from zone_agent.faces.native.project import Projector
from zone_agent.faces.native.servicers import Apps, Datastores, Federation, Images, Markets, Zones
from zone_agent.identity.credentials import Credentials
from zone_agent.jobs import Jobs
from zone_agent.services.apps import AppService
from zone_agent.services.changes import ChangeService
from zone_agent.services.clones import CloneService
from zone_agent.services.datastores import DatastoreService
from zone_agent.services.downloads import DownloadService
from zone_agent.services.exports import ExportService
from zone_agent.services.federation import FederationService
from zone_agent.services.images import ImageService
from zone_agent.services.jobs import JobService
from zone_agent.services.markets import MarketService
from zone_agent.services.zones import ZoneService
from zone_agent.telemetry.grpc_server import Observer

MAX_MESSAGE_BYTES = 4 << 20
"""gRPC's own default, said openly: a larger message is answered RESOURCE_EXHAUSTED."""

OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    # A second agent on the same port is an error, not a colleague.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    # A client that was cut off without a word must not hold what it was sending for hours.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


@dataclass(frozen=True, slots=True)
class Services:
    """What the API serves."""

    zones: ZoneService
    markets: MarketService
    apps: AppService
    changes: ChangeService
    exports: ExportService
    images: ImageService
    datastores: DatastoreService
    clones: CloneService
    downloads: DownloadService
    running: Jobs
    """Not served: what runs the jobs."""
    jobs: JobService
    federation: FederationService


class NativeFace:
    """The native API on its port."""

    def __init__(
        self,
        services: Services,
        projector: Projector,
        credentials: Credentials,
        settings: GrpcSettings,
        *,
        grace: float,
        idle_seconds: float,
        tls: GrpcTls | None,
    ) -> None:
        self._services = services
        self._projector = projector
        self._credentials = credentials
        self._settings = settings
        self._grace = grace
        self._idle_seconds = idle_seconds
        self._tls = tls

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[int, None]:
        """Serve while the context is open; gives the port. Raises ConfigError if the address cannot be used."""
        gate = Gate(self._credentials)
        server = aio.server(interceptors=[Observer("native"), gate], options=OPTIONS)
        checks, names = self._add(server)
        port = bind(server, str(self._settings.listen), self._tls.credentials() if self._tls else None, "[grpc] listen")
        await server.start()
        for name in ["", *names]:
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        try:
            yield port
        finally:
            await checks.enter_graceful_shutdown()
            await server.stop(self._grace)
            await gate.drain(self._grace)

    def _add(self, server: aio.Server) -> tuple[health.aio.HealthServicer, list[str]]:
        s = self._services
        images = Images(s.images, s.clones, self._projector, self._idle_seconds)
        zone_pb2_grpc.add_ZoneServiceServicer_to_server(Zones(s.zones), server)
        zone_pb2_grpc.add_FederationServiceServicer_to_server(Federation(s.zones, s.federation), server)
        market_pb2_grpc.add_MarketServiceServicer_to_server(Markets(s.markets, self._projector), server)
        apps = Apps(s.apps, s.exports, s.downloads, self._projector, images)
        app_pb2_grpc.add_AppServiceServicer_to_server(apps, server)
        image_pb2_grpc.add_ImageServiceServicer_to_server(images, server)
        image_pb2_grpc.add_DatastoreServiceServicer_to_server(Datastores(s.datastores, self._projector), server)
        change_pb2_grpc.add_ChangeServiceServicer_to_server(Changes(s.changes, s.zones), server)
        job_pb2_grpc.add_JobServiceServicer_to_server(JobServicer(s.jobs), server)
        files = [zone_pb2, market_pb2, app_pb2, change_pb2, image_pb2, job_pb2]
        names = [service.full_name for file in files for service in file.DESCRIPTOR.services_by_name.values()]
        checks = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        return checks, names


def bind(server: aio.Server, address: str, credentials: grpc.ServerCredentials | None, setting: str) -> int:
    """Bind a server to an address and return its port. Raises ConfigError."""
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ConfigError(
            f"{setting} = {address} cannot be used, perhaps another program listens there: choose another port"
        ) from error
