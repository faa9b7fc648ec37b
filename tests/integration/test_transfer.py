"""From one agent's HTTP face to another's disk; downloads through an agent; and leaving in the middle."""

import asyncio
import hashlib
import random
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import aiohttp
import pytest

from drivers.market.http import HttpMarket
from fedmarket.errors import BadInput, Corrupt, NotFound, Unavailable
from fedmarket.retry import Backoff
from fedmarket.units import MIB
from tests.support import hostile_http as bad
from tests.support.hostile_http import hostile
from tests.support.waiting import BOUND_SECONDS, eventually
from zone_agent.address import Address
from zone_agent.faces.http import HttpFace
from zone_agent.transfer.fetch import fetch
from zone_agent.transfer.relay import stream
from zone_agent.transfer.settings import TransferSettings
from zone_agent.transfer.signing import UrlSigner

BLOB = random.Random(11).randbytes(5 * MIB + 4321)
SHA256 = hashlib.sha256(BLOB).digest()
SIGNER = UrlSigner(b"s" * 32, lambda: 1_800_000_000.0)
SETTINGS = TransferSettings(part_bytes=MIB, attempts=3, backoff=Backoff(first_seconds=0.001, longest_seconds=0.002))


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
async def berlin(tmp_path: Path) -> AsyncIterator[str]:
    """Base URL of an agent that serves BLOB as object `app-1` of market 5."""
    market = HttpMarket(tmp_path / "berlin")
    with market.stage("app-1", "job", len(BLOB)) as staging:
        staging.write(0, BLOB)
        staging.commit()

    def resolve(market_id: int, object_name: str) -> Path:
        if market_id != 5:
            raise NotFound("there is no such market")
        return market.path(object_name)

    async with HttpFace(Address("127.0.0.1", 0), SIGNER, resolve) as face:
        yield f"http://127.0.0.1:{face.port}"


async def test_a_blob_travels_from_one_zone_to_the_other(
    session: aiohttp.ClientSession, berlin: str, tmp_path: Path
) -> None:
    tokyo = HttpMarket(tmp_path / "tokyo")
    seen: list[int] = []
    with tokyo.stage("copy", "job", len(BLOB)) as staging:
        url = SIGNER.sign(berlin, 5, "app-1", 60)
        await fetch(session, [url], len(BLOB), SHA256, staging.write, SETTINGS, seen.append)
        assert not (tmp_path / "tokyo" / "copy").exists()
        staging.commit()
    assert (tmp_path / "tokyo" / "copy").read_bytes() == BLOB
    assert seen[-1] == len(BLOB)


async def test_a_url_signed_for_another_object_gives_nothing(session: aiohttp.ClientSession, berlin: str) -> None:
    url = SIGNER.sign(berlin, 5, "app-2", 60).replace("app-2", "app-1")
    with pytest.raises(Unavailable, match="refused the read \\(403\\)"):
        await fetch(session, [url], len(BLOB), SHA256, _nowhere, SETTINGS, _unseen)


async def test_a_blob_that_has_grown_on_disk_is_not_taken(
    session: aiohttp.ClientSession, berlin: str, tmp_path: Path
) -> None:
    with (tmp_path / "berlin" / "app-1").open("ab") as blob:
        blob.write(b"!")
    with pytest.raises(Corrupt, match=f"holds {len(BLOB) + 1} bytes where the record says {len(BLOB)}"):
        await fetch(session, [SIGNER.sign(berlin, 5, "app-1", 60)], len(BLOB), SHA256, _nowhere, SETTINGS, _unseen)


@pytest.mark.parametrize("offset", [0, 1, MIB, len(BLOB) - 1, len(BLOB)])
async def test_a_stream_gives_the_bytes_from_its_offset_on(
    session: aiohttp.ClientSession, berlin: str, offset: int
) -> None:
    chunks = await _streamed(session, SIGNER.sign(berlin, 5, "app-1", 60), offset=offset)
    assert b"".join(chunks) == BLOB[offset:]
    assert all(0 < len(chunk) <= MIB for chunk in chunks)


@pytest.mark.parametrize("offset", [-1, len(BLOB) + 1])
async def test_an_offset_outside_the_blob_is_refused(session: aiohttp.ClientSession, offset: int) -> None:
    with pytest.raises(BadInput, match="outside the blob's"):
        await _streamed(session, "http://127.0.0.1:9/", offset=offset)


async def test_chunks_of_a_stream_keep_to_their_limit(session: aiohttp.ClientSession, berlin: str) -> None:
    url = SIGNER.sign(berlin, 5, "app-1", 60)
    async with aclosing(stream(session, [url], len(BLOB), SETTINGS, chunk_bytes=1000)) as chunks:
        assert [len(chunk) async for chunk in chunks if len(chunk) > 1000] == []


async def test_a_stream_goes_on_over_cuts_and_from_other_sources(session: aiohttp.ClientSession) -> None:
    async with hostile(BLOB, bad.cut_after(300_000), otherwise=bad.status(404)) as first, hostile(BLOB) as second:
        chunks = await _streamed(session, first.url, second.url)
    assert b"".join(chunks) == BLOB


async def test_a_stream_from_a_source_that_ignores_ranges_begins_at_its_offset(session: aiohttp.ClientSession) -> None:
    async with hostile(BLOB, otherwise=bad.ignores_range) as server:
        assert b"".join(await _streamed(session, server.url, offset=1234)) == BLOB[1234:]


async def test_a_stream_whose_blob_changes_ends_in_an_error(session: aiohttp.ClientSession) -> None:
    async with hostile(BLOB, bad.honest, bad.changes_to(BLOB[::-1], '"two"')) as server:
        with pytest.raises(Unavailable, match="changed while it was read: read it again from 0") as caught:
            await _streamed(session, server.url)
    assert "secret" not in str(caught.value)


async def test_a_stream_that_cannot_go_on_ends_in_an_error_after_the_right_bytes(
    session: aiohttp.ClientSession,
) -> None:
    got = bytearray()

    async def read(url: str) -> None:
        async with aclosing(stream(session, [url], len(BLOB), SETTINGS)) as chunks:
            async for chunk in chunks:
                got.extend(chunk)

    async with hostile(BLOB, bad.honest, otherwise=bad.status(404)) as server:
        with pytest.raises(Unavailable, match="does not hold the blob"):
            await read(server.url)
    assert got == BLOB[:MIB]


async def test_a_stream_that_is_closed_early_closes_its_connection(session: aiohttp.ClientSession) -> None:
    async with hostile(BLOB, otherwise=bad.stall_after(500_000)) as server:
        async with aclosing(stream(session, [server.url], len(BLOB), SETTINGS)) as chunks:
            await anext(chunks)
        async with asyncio.timeout(BOUND_SECONDS):
            await server.unpeopled.wait()


async def test_a_slow_reader_of_a_stream_holds_back_its_source(session: aiohttp.ClientSession) -> None:
    blob = bytes(64 * MIB)
    sent = 0

    async def counts(exchange: bad.Exchange) -> None:
        nonlocal sent
        await exchange.send(200, b"", {"Content-Length": str(len(blob))}, {})
        while sent < len(blob):
            await exchange.raw(blob[:MIB])
            sent += MIB

    async with hostile(blob, otherwise=counts) as server:
        async with aclosing(stream(session, [server.url], len(blob), SETTINGS)) as chunks:
            taken = len(await anext(chunks))
            before = -1
            while sent > before:  # until the sender has come to rest
                before = sent
                await asyncio.sleep(0.1)
            assert sent < len(blob) // 2
            async for chunk in chunks:
                taken += len(chunk)
        assert taken == len(blob)


async def test_cancelling_a_fetch_closes_its_connection(session: aiohttp.ClientSession) -> None:
    begun = asyncio.Event()
    async with hostile(BLOB, otherwise=bad.stall_after(500_000)) as server:
        fetching = asyncio.create_task(
            fetch(session, [server.url], len(BLOB), SHA256, _nowhere, SETTINGS, lambda _: begun.set())
        )
        async with asyncio.timeout(BOUND_SECONDS):
            await begun.wait()
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
            await server.unpeopled.wait()


async def test_a_fetch_is_not_over_while_a_write_is_under_way(session: aiohttp.ClientSession) -> None:
    writing, released, written = threading.Event(), threading.Event(), threading.Event()

    def write(offset: int, data: bytes) -> None:
        writing.set()
        released.wait(BOUND_SECONDS)
        written.set()

    async with hostile(BLOB) as server:
        fetching = asyncio.create_task(fetch(session, [server.url], len(BLOB), SHA256, write, SETTINGS, _unseen))
        await eventually(writing.is_set)
        for _ in range(3):  # however often it is cancelled
            fetching.cancel()
            await asyncio.wait([fetching], timeout=0.05)
            assert not fetching.done()
        released.set()
        with pytest.raises(asyncio.CancelledError):
            await fetching
    assert written.is_set()


async def test_the_network_goes_on_while_a_slow_disk_writes_but_not_without_bound(
    session: aiohttp.ClientSession,
) -> None:
    blob = bytes(64 * MIB)
    released = threading.Event()
    seen: list[int] = []

    def write(offset: int, data: bytes) -> None:
        released.wait(BOUND_SECONDS)

    async with hostile(blob) as server:
        fetching = asyncio.create_task(
            fetch(session, [server.url], len(blob), hashlib.sha256(blob).digest(), write, SETTINGS, seen.append)
        )
        # One block is in the write; a second has been gathered meanwhile.
        await eventually(lambda: bool(seen) and seen[-1] >= MIB)
        await asyncio.wait([fetching], timeout=0.2)
        assert seen[-1] < 8 * MIB
        released.set()
        await fetching
    assert seen[-1] == len(blob)


async def _streamed(session: aiohttp.ClientSession, *urls: str, offset: int = 0) -> list[bytes]:
    async with aclosing(stream(session, urls, len(BLOB), SETTINGS, offset=offset)) as chunks:
        return [chunk async for chunk in chunks]


def _nowhere(offset: int, data: bytes) -> None:
    pass


def _unseen(received: int) -> None:
    pass
