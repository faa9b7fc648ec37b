"""The agent's HTTP from start to stop: addresses, TLS, readers that stall, reads that are under way at the end."""

import asyncio
import logging
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest

from fedmarket.errors import ConfigError
from tests.support.curl import curl
from tests.support.waiting import BOUND_SECONDS, eventually
from zone_agent.address import Address
from zone_agent.faces.http import HttpFace, HttpFaceSettings
from zone_agent.transfer.signing import UrlSigner

LOOPBACK = Address("127.0.0.1", 0)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(bytes(32 << 20))
    return path


async def test_a_reader_that_stalls_is_cut_off(big: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    signer = UrlSigner(b"k" * 32, lambda: 0.0)
    settings = HttpFaceSettings(stalled_seconds=0.5)
    async with HttpFace(LOOPBACK, signer, lambda *_: big, settings=settings) as face:
        _, writer = await _begin(face, signer)
        await eventually(lambda: "reader 127.0.0.1 took no byte for too long and is cut off" in caplog.text)
        writer.transport.abort()
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_stopping_waits_for_reads_and_then_cuts_them_off(big: Path) -> None:
    signer = UrlSigner(b"k" * 32, lambda: 0.0)
    settings = HttpFaceSettings(shutdown_seconds=0.2)
    face = HttpFace(LOOPBACK, signer, lambda *_: big, settings=settings)
    await face.start()
    _, writer = await _begin(face, signer)
    async with asyncio.timeout(BOUND_SECONDS):
        await face.stop()
    writer.transport.abort()


async def test_a_read_under_way_may_end_when_the_agent_stops(big: Path) -> None:
    signer = UrlSigner(b"k" * 32, lambda: 0.0)
    face = HttpFace(LOOPBACK, signer, lambda *_: big)
    await face.start()
    reader, writer = await _begin(face, signer)
    stopping = asyncio.create_task(face.stop())
    async with asyncio.timeout(BOUND_SECONDS):
        body = (await reader.read()).split(b"\r\n\r\n", 1)[1]
        await stopping
    assert len(body) == 32 << 20
    writer.close()


async def _begin(face: HttpFace, signer: UrlSigner) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for the big blob and read no more than the first line."""
    reader, writer = await asyncio.open_connection("127.0.0.1", face.port, limit=1024)
    writer.write(f"GET {signer.sign('', 1, 'big', 60)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readline()
    return reader, writer


async def test_a_face_runs_until_cancelled_and_can_run_again() -> None:
    face = HttpFace(LOOPBACK, UrlSigner(b"k" * 32, lambda: 0.0), lambda *_: Path("/nowhere"))
    for _ in range(2):
        port = asyncio.get_running_loop().create_future()
        async with aiohttp.ClientSession() as session:
            async with asyncio.TaskGroup() as group:
                running = group.create_task(face.run(port.set_result))
                url = f"http://127.0.0.1:{await asyncio.wait_for(port, BOUND_SECONDS)}/healthz"
                async with session.get(url) as response:
                    assert response.status == 200
                running.cancel()
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(url)


async def test_an_address_in_use_is_said() -> None:
    signer = UrlSigner(b"k" * 32, lambda: 0.0)
    async with HttpFace(LOOPBACK, signer, lambda *_: Path("/nowhere")) as face:
        taken = Address("127.0.0.1", face.port)
        with pytest.raises(ConfigError, match=f"HTTP cannot listen at {taken} .*: stop what listens there"):
            await HttpFace(taken, signer, lambda *_: Path("/nowhere")).start()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


async def test_blobs_are_served_by_tls(certificate: tuple[Path, Path], big: Path) -> None:
    cert, key = certificate
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    signer = UrlSigner(b"k" * 32, lambda: 0.0)
    async with HttpFace(LOOPBACK, signer, lambda *_: big, tls=tls) as face:
        base = f"https://127.0.0.1:{face.port}"
        url = signer.sign(base, 1, "big", 60)
        printed = await curl("--cacert", str(cert), "-o", "/dev/null", url, "-w", "%{http_code} %{size_download}")
    assert printed == f"200 {32 << 20}"
