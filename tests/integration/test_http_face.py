"""The agent's HTTP, as curl, browsers and liars meet it."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import aiohttp
import pytest
from multidict import CIMultiDictProxy

from fedmarket.errors import ConfigError, Internal, NotFound, Refused, Unavailable, cause_of
from tests.support.curl import curl
from tests.support.waiting import BOUND_SECONDS
from zone_agent.address import Address
from zone_agent.faces import http
from zone_agent.faces.http import HttpFace
from zone_agent.transfer.signing import UrlSigner

LOOPBACK = Address("127.0.0.1", 0)
BLOB = bytes(range(256)) * 400
MODIFIED = 1_700_000_000


@dataclass
class Agent:
    """A face over one directory as market 7; markets 8 and 9 have something against being read."""

    directory: Path
    session: aiohttp.ClientSession
    now: float = 1_800_000_000.0
    base: str = ""

    def resolve(self, market_id: int, object_name: str) -> Path:
        match market_id:
            case 7:
                return self.directory / object_name
            case 8:
                raise Refused("the market is disabled: enable it first")
            case 9:
                raise Internal("the market is odd")
        raise NotFound(f"there is no market {market_id} here")

    def __post_init__(self) -> None:
        self.signer = UrlSigner(b"k" * 32, lambda: self.now)

    def url(self, object_name: str = "blob", market: int = 7) -> str:
        return self.signer.sign(self.base, market, object_name, 60)

    async def get(self, url: str | None = None, method: str = "GET", **headers: str) -> "Answer":
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(
            method, self.url() if url is None else url, headers=named, auto_decompress=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())


@dataclass
class Answer:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    blob = tmp_path / "blob"
    blob.write_bytes(BLOB)
    os.utime(blob, (MODIFIED, MODIFIED))
    async with aiohttp.ClientSession(skip_auto_headers=["Accept-Encoding"]) as session:
        agent = Agent(tmp_path, session)
        async with HttpFace(LOOPBACK, agent.signer, agent.resolve) as face:
            agent.base = f"http://127.0.0.1:{face.port}"
            yield agent


async def test_a_blob_is_served_whole(agent: Agent) -> None:
    answer = await agent.get()
    assert (answer.status, answer.body) == (200, BLOB)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Length"] == str(len(BLOB))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Cache-Control"] == "private, no-transform"
    assert answer.headers["Last-Modified"] == formatdate(MODIFIED, usegmt=True)
    assert answer.headers["ETag"].startswith('"')
    assert "Content-Encoding" not in answer.headers


async def test_head_says_the_same_without_the_bytes(agent: Agent) -> None:
    got, told = await agent.get(), await agent.get(method="HEAD")
    assert (told.status, told.body) == (200, b"")
    for header in ("Content-Length", "ETag", "Last-Modified", "Content-Type", "Accept-Ranges"):
        assert told.headers[header] == got.headers[header]


RANGES = {
    "bytes=0-0": (0, 1),
    "bytes=10-99": (10, 100),
    "BYTES=10-99": (10, 100),
    "bytes=102000-": (102000, len(BLOB)),
    "bytes=102000-999999": (102000, len(BLOB)),
    "bytes=-100": (len(BLOB) - 100, len(BLOB)),
    "bytes=-999999": (0, len(BLOB)),
}


@pytest.mark.parametrize("asked", RANGES)
async def test_one_range_is_served_as_such(agent: Agent, asked: str) -> None:
    begin, end = RANGES[asked]
    answer = await agent.get(Range=asked)
    assert (answer.status, answer.body) == (206, BLOB[begin:end])
    assert answer.headers["Content-Range"] == f"bytes {begin}-{end - 1}/{len(BLOB)}"


@pytest.mark.parametrize("asked", ["bytes=102400-", "bytes=200000-200001", "bytes=5-2"])
async def test_a_range_that_is_not_there_is_416_with_the_size(agent: Agent, asked: str) -> None:
    answer = await agent.get(Range=asked)
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(BLOB)}"


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "lines=1-2", "bytes=-0", "bytes=", "bytes=a-b", "nonsense"])
async def test_what_is_not_one_range_of_bytes_is_answered_whole(agent: Agent, asked: str) -> None:
    answer = await agent.get(Range=asked)
    assert (answer.status, answer.body) == (200, BLOB)


async def test_conditions_hold(agent: Agent) -> None:
    etag = (await agent.get()).headers["ETag"]
    assert (await agent.get(If_None_Match=etag)).status == 304
    assert (await agent.get(If_None_Match='"other"')).status == 200
    assert (await agent.get(If_Modified_Since=formatdate(MODIFIED, usegmt=True))).status == 304
    assert (await agent.get(If_Match='"other"')).status == 412


async def test_if_range_serves_the_range_of_the_same_blob_only(agent: Agent) -> None:
    etag = (await agent.get()).headers["ETag"]
    same, older = formatdate(MODIFIED, usegmt=True), formatdate(MODIFIED - 10, usegmt=True)
    for condition in (etag, same):
        assert (await agent.get(Range="bytes=5-9", If_Range=condition)).body == BLOB[5:10]
    for condition in ('"other"', f"W/{etag}", older, "nonsense"):
        answer = await agent.get(Range="bytes=5-9", If_Range=condition)
        assert (answer.status, answer.body) == (200, BLOB)


async def test_a_blob_that_was_replaced_has_another_etag(agent: Agent) -> None:
    before = (await agent.get()).headers["ETag"]
    os.utime(agent.directory / "blob", (MODIFIED, MODIFIED + 1))
    assert (await agent.get()).headers["ETag"] != before


async def test_a_compressed_neighbour_is_never_served_in_its_place(agent: Agent) -> None:
    (agent.directory / "blob.gz").write_bytes(b"another blob")
    (agent.directory / "blob.br").write_bytes(b"another blob")
    answer = await agent.get(Accept_Encoding="gzip, br")
    assert (answer.status, answer.body) == (200, BLOB)
    assert "Content-Encoding" not in answer.headers


async def test_an_empty_blob_is_served(agent: Agent) -> None:
    (agent.directory / "empty").touch()
    answer = await agent.get(agent.url("empty"))
    assert (answer.status, answer.body) == (200, b"")


async def test_curl_reads_ranges_and_resumes(agent: Agent, tmp_path: Path) -> None:
    part, whole = tmp_path / "part", tmp_path / "whole"
    await curl("-r", "100-299", "-o", str(part), agent.url())
    assert part.read_bytes() == BLOB[100:300]
    whole.write_bytes(BLOB[:60_000])
    await curl("-C", "-", "-o", str(whole), agent.url())
    assert whole.read_bytes() == BLOB


async def test_one_connection_serves_one_range_after_the_other(agent: Agent) -> None:
    url = agent.url()
    printed = await curl(
        "-r", "0-9", "-o", "/dev/null", url, "-o", "/dev/null", url, "-w", "%{num_connects} %{http_code}\n"
    )
    assert printed.splitlines() == ["1 206", "0 206"]


async def test_a_url_that_is_not_signed_or_not_rightly_is_forbidden(agent: Agent) -> None:
    url = agent.url()
    path, query = url.split("?")
    expires, sig = query.split("&")
    for wrong in (
        path,
        f"{path}?{expires}",
        f"{path}?{sig}",
        f"{path}?expires=&{sig}",
        f"{path}?expires=soon&{sig}",
        f"{path}?expires=-1&{sig}",
        f"{path}?expires=1%0A&{sig}",
        f"{path}?{expires}0&{sig}",
        f"{path}?{expires}&sig=",
        f"{path}?{expires}&sig=%ff%fe",
        f"{path}?{expires}&sig=%C3%A9",
        f"{path}?{expires}&{sig}0",
        url.replace("blobs/7", "blobs/8"),
        url.replace("/blob?", "/other?"),
    ):
        answer = await agent.get(wrong)
        assert answer.status == 403, wrong
        assert b"ask the zone for a" in answer.body


async def test_a_url_that_has_expired_is_forbidden_also_for_head(agent: Agent) -> None:
    url = agent.url()
    agent.now += 61
    assert (await agent.get(url)).body == b"this URL has expired: ask the zone for a new one\n"
    assert (await agent.get(url, method="HEAD")).status == 403


async def test_what_is_not_there_is_not_found(agent: Agent) -> None:
    (agent.directory / "folder").mkdir()
    os.mkfifo(agent.directory / "fifo")
    for name in ("missing", "folder", "fifo"):
        answer = await agent.get(agent.url(name))
        assert (answer.status, answer.headers["Content-Type"]) == (404, "text/plain; charset=utf-8")
        assert b"no such blob" in answer.body
    assert (await agent.get(agent.url(market=10))).status == 404


async def test_what_the_services_refuse_is_said_in_their_words(agent: Agent) -> None:
    answer = await agent.get(agent.url(market=8))
    assert (answer.status, answer.body) == (409, b"the market is disabled: enable it first\n")
    assert (await agent.get(agent.url(market=9))).status == 500


async def raw(agent: Agent, request: bytes) -> bytes:
    """Send bytes as they are; return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(agent.base.rsplit(":", 1)[1]))
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(BOUND_SECONDS):
            return await reader.read()
    finally:
        writer.close()


HOSTILE = [
    "/blobs/7/../../etc/passwd",
    "/blobs/7/%2e%2e",
    "/blobs/7/..",
    "/blobs/7/..%2f..%2fetc%2fpasswd",
    "/blobs/7/blob%00",
    "/blobs/7/blob%0a",
    "/blobs/7/.staging",
    "/blobs/7/.staging%2Fblob.job",
    "/blobs/7//etc/passwd",
    "/blobs/7/%2fetc%2fpasswd",
    "/blobs/7/" + "a" * 300,
    "/blobs/7/%ff%fe",
    "/blobs/07/blob",
    "/blobs/-7/blob",
    "/blobs/7x/blob",
    "/blobs/\N{ARABIC-INDIC DIGIT SEVEN}/blob",
    "/blobs/7/",
    "/blobs/7",
    "//blobs/7/blob",
    "/blobs/./7/blob",
    "http://elsewhere/blobs/7/../x",
]


@pytest.mark.parametrize("path", HOSTILE)
async def test_hostile_paths_lead_nowhere(agent: Agent, path: str) -> None:
    head = f"GET {path}?expires=1800000060&sig=00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await raw(agent, head.encode())
    assert answer.split(b" ", 2)[1] in {b"400", b"404"}
    assert b"root:" not in answer


@pytest.mark.parametrize("name", ["../blob", "..", "a/b", "\0", "", ".staging"])
async def test_not_even_a_signed_url_leads_out_of_the_market(agent: Agent, name: str) -> None:
    target = agent.url(name).removeprefix(agent.base)
    answer = await raw(agent, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] in {b"400", b"404"}


async def test_health_is_told_and_nothing_else_is_there(agent: Agent) -> None:
    answer = await agent.get(f"{agent.base}/healthz")
    assert (answer.status, answer.body) == (200, b"ok\n")
    for path in ("/", "/index.html", "/healthz/", "/blobs"):
        assert (await agent.get(f"{agent.base}{path}")).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
async def test_blobs_are_only_read(agent: Agent, method: str) -> None:
    assert (await agent.get(method=method)).status == 405
    assert (agent.directory / "blob").read_bytes() == BLOB


async def test_a_request_with_a_body_is_refused_without_reading_it(agent: Agent) -> None:
    target = agent.url().removeprefix(agent.base)
    head = f"GET {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
    assert (await raw(agent, head.encode())).startswith(b"HTTP/1.1 413 ")


async def test_headers_have_a_limit(agent: Agent) -> None:
    for line in (f"GET /{'a' * 9000} HTTP/1.1\r\n", f"GET /healthz HTTP/1.1\r\nX: {'a' * 9000}\r\n"):
        answer = await raw(agent, f"{line}Host: x\r\n\r\n".encode())
        assert answer.split(b" ", 2)[1] == b"400"


async def test_nothing_logged_holds_a_signature(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    target = agent.url().removeprefix(agent.base)
    sig = target.rsplit("=", 1)[1]
    await agent.get()
    await agent.get(agent.url(market=9))
    await raw(agent, f"GET {target} HTTP/9.9.9\r\nHost: x\r\n\r\n".encode())
    await raw(agent, f"GET {target}{'a' * 9000} HTTP/1.1\r\n\r\n".encode())
    assert "GET /blobs/7/blob: 200" in caplog.text
    assert "GET /blobs/9/blob failed: the market is odd" in caplog.text
    assert sig not in caplog.text
    assert "sig=" not in caplog.text


async def test_requests_are_logged_only_for_those_who_debug(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await agent.get()
    assert caplog.text == ""


async def test_readers_that_do_not_read_hold_up_nobody(agent: Agent) -> None:
    (agent.directory / "big").write_bytes(bytes(32 << 20))
    port = int(agent.base.rsplit(":", 1)[1])
    target = agent.url("big").removeprefix(agent.base)
    stalled = [await asyncio.open_connection("127.0.0.1", port, limit=1024) for _ in range(30)]
    for _, writer in stalled:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(BOUND_SECONDS):
        for reader, _ in stalled:
            await reader.readline()
        assert (await agent.get()).body == BLOB
    for _, writer in stalled:
        writer.transport.abort()


def test_every_cause_has_a_status() -> None:
    for error in (ConfigError, Refused, Unavailable, NotFound, Internal):
        status = next(http.STATUS[base] for base in error.__mro__ if base in http.STATUS)
        assert (status >= 500) == (cause_of(error).grpc in {"INTERNAL", "UNAVAILABLE"})
