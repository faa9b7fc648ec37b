"""Fetching for a worker: one HTTP client per blob, closed with it."""

from collections.abc import Callable

import aiohttp

from fedmarket.pb.fedmarket.v1.worker_pb2 import FetchTask
from zone_agent.transfer.fetch import fetch
from zone_agent.transfer.settings import TransferSettings


async def fetch_urls(task: FetchTask, write: Callable[[int, bytes], None], progress: Callable[[int], None]) -> None:
    """Fetch a blob, verified, from the first of some URLs that gives it rightly. Raises as `fetch` does."""
    settings = TransferSettings(connect_seconds=task.connect_seconds, idle_seconds=task.idle_seconds)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        await fetch(session, task.urls, task.size_bytes, task.sha256, write, settings, progress)
