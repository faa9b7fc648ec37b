"""The agent's HTTP: blobs by signed URLs, with ranges, and a sign of life."""

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError

from drivers.names import check_object_name
from fedmarket.errors import (
    BadInput,
    ConfigError,
    Denied,
    FedmarketError,
    NotFound,
    Refused,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from zone_agent.address import Address
from zone_agent.transfer.serving import BlobResponse
from zone_agent.transfer.signing import UrlSigner

log = logging.getLogger(__name__)

Resolve = Callable[[int, str], Path]
"""Where the object of a market is, from memory (it must not block). Raises NotFound, Refused, BadInput."""

STATUS: dict[type[FedmarketError], int] = {
    FedmarketError: 500,
    BadInput: 400,
    Unauthenticated: 401,
    Denied: 403,
    NotFound: 404,
    Refused: 409,
    TooLarge: 413,
    Unavailable: 503,
}
"""HTTP status of each cause. A class that is not in it takes the row of its nearest base."""

_MARKET = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_EXPIRES = re.compile(r"[1-9][0-9]{0,14}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFaceSettings:
    """Limits of the HTTP face."""

    header_bytes: int = 8192
    """Of the request line, and of one header."""
    headers: int = 64
    keepalive_seconds: float = 75.0
    """A connection on which nothing is asked for so long is closed."""
    stalled_seconds: float = 60.0
    """A reader that takes no byte for so long is cut off: it holds a file open. It can go on with a range."""
    shutdown_seconds: float = 10.0
    """Reads that are under way at the end have so long in all."""


class HttpFace:
    """An HTTP server at one address, from `start` to `stop`, or as long as its context lasts.

    With `tls` it speaks HTTPS only. Certificates can be renewed by loading them into the same context.
    """

    def __init__(
        self,
        listen: Address,
        signer: UrlSigner,
        resolve: Resolve,
        *,
        tls: ssl.SSLContext | None = None,
        metrics: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None,
        settings: HttpFaceSettings = HttpFaceSettings(),
    ) -> None:
        self._listen = listen
        self._signer = signer
        self._resolve = resolve
        self._tls = tls
        self._metrics = metrics
        self._settings = settings
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port that is bound, between `start` and `stop`."""
        if self._runner is None:
            raise RuntimeError("the HTTP face has not been started")
        port: int = self._runner.addresses[0][1]
        return port

    async def start(self) -> None:
        """Begin to serve. Raises ConfigError if the address cannot be listened at."""
        runner = web.AppRunner(
            self._application(),
            access_log_class=_AccessLog,
            access_log=log,
            logger=_server_log,
            max_line_size=self._settings.header_bytes,
            max_field_size=self._settings.header_bytes,
            max_headers=self._settings.headers,
            keepalive_timeout=self._settings.keepalive_seconds,
            # No request has a body: whoever sends one is not listened to.
            lingering_time=0,
            # aiohttp waits this long for a handler to end, cancels it, and waits as long again.
            shutdown_timeout=self._settings.shutdown_seconds / 2,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._listen.host, self._listen.port, ssl_context=self._tls).start()
        except OSError as error:
            await runner.cleanup()
            raise ConfigError(
                f"HTTP cannot listen at {self._listen} ({error.strerror}): "
                "stop what listens there, or change listen under [http] in zone.toml"
            ) from error
        self._runner = runner
        log.info("HTTP listens at %s", self._listen.with_port(self.port))

    async def stop(self) -> None:
        """Take no more connections, let reads end within their time, then cut them off."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def run(self, listening: Callable[[int], None]) -> None:
        """Serve until cancelled; `listening` is told the port once it is bound. Raises ConfigError, as `start`."""
        async with self:
            listening(self.port)
            await asyncio.Event().wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[_answer_errors])
        app.router.add_get("/healthz", _healthz)
        app.router.add_get("/blobs/{market}/{object}", self._blob)
        if self._metrics is not None:
            app.router.add_get("/metrics", self._metrics)
        return app

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        market_id, object_name = _blob_name(request)
        expires, sig = request.query.get("expires", ""), request.query.get("sig", "")
        if not _EXPIRES.fullmatch(expires) or not sig:
            raise Denied("blobs are read by signed URLs, and this one is not signed: ask the zone for a URL")
        self._signer.verify(market_id, object_name, int(expires), sig)
        path = self._resolve(market_id, object_name)
        _cut_off_when_stalled(request, self._settings.stalled_seconds)
        return await BlobResponse.of(path)


async def _healthz(request: web.Request) -> web.Response:  # noqa: ARG001 - aiohttp's form of a handler
    return web.Response(text="ok\n")


def _blob_name(request: web.Request) -> tuple[int, str]:
    market, object_name = request.match_info["market"], request.match_info["object"]
    if not _MARKET.fullmatch(market):
        raise NotFound("there is no such market: its id is a number")
    return int(market), check_object_name(object_name)


def _cut_off_when_stalled(request: web.Request, seconds: float) -> None:
    # The kernel counts the time in which the reader acknowledges nothing or keeps its window shut. It alone can: in
    # sendfile no code of ours runs.
    connection = request.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


@web.middleware
async def _answer_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        if request.body_exists:
            raise TooLarge("requests have no body here: ask without one")
        return await handler(request)
    except FedmarketError as error:
        status = next(STATUS[base] for base in type(error).__mro__ if base in STATUS)
        if status >= 500:
            log.error("%s %s failed: %s", request.method, request.rel_url.raw_path, error)
        return web.Response(status=status, text=f"{error}\n")


class _AccessLog(AbstractAccessLogger):
    """One line per request at DEBUG, without its query: that is where signatures are."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        self.logger.debug(
            "%s %s %s: %d, %d bytes, %.3f s",
            request.remote, request.method, request.rel_url.raw_path, response.status, response.body_length, time,
        )  # fmt: skip

    @property
    def enabled(self) -> bool:
        return self.logger.isEnabledFor(logging.DEBUG)


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether aiohttp reports a fault of this server. It reports malformed requests too, and quotes them."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_server_log = log.getChild("server")
_server_log.addFilter(_is_ours)
