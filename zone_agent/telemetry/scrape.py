"""GET /metrics, in the formats that Prometheus asks for."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from aiohttp import hdrs, web
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder

from zone_agent.telemetry.instruments import REGISTRY

Live = Callable[[], list[Metric]]
"""Reads the gauges off the agent; on its loop, so that they fit each other."""


class Scrape:
    """Answers one reader at a time as the agent is at that moment."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def answer(self, request: web.Request) -> web.Response:
        """Answer; the text is made in a thread, since an agent with many methods and peers has much of it."""
        try:
            encode, content_type = choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        families = _Families(self._live())
        response = web.Response(body=await asyncio.to_thread(encode, families))
        response.headers[hdrs.CONTENT_TYPE] = content_type
        response.enable_compression()
        return response


class _Families:
    """What the encoders take for a registry."""

    def __init__(self, live: Iterable[Metric]) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        """Return all families."""
        return chain(self._live, REGISTRY.collect())
