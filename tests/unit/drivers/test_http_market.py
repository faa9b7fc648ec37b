import functools
import os
import stat
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from drivers.capabilities import Deletable, OnDisk, Published, Readable, Sized, Writable
from drivers.market.http import HttpMarket
from drivers.testkit import DeletableSuite, OnDiskSuite, PublishedSuite, SizedSuite, WritableSuite
from drivers.testkit.blobs import put
from fedmarket.errors import BadInput


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def base_url(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(_QuietHandler, directory=str(tmp_path / "public"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class TestHttpMarket(WritableSuite, DeletableSuite, SizedSuite, OnDiskSuite):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> HttpMarket:
        return HttpMarket(tmp_path / "public")


class TestPublishedHttpMarket(PublishedSuite):
    @pytest.fixture
    def driver(self, tmp_path: Path, base_url: str) -> HttpMarket:
        return HttpMarket.from_attributes(
            {"PUBLIC_DIR": str(tmp_path / "public"), "BASE_URL": base_url}, tmp_path / "default"
        )


def test_it_has_every_capability_of_a_store(tmp_path: Path) -> None:
    market = HttpMarket(tmp_path)
    for capability in (Readable, Writable, Deletable, Sized, Published, OnDisk):
        assert isinstance(market, capability)


def test_without_attributes_it_uses_the_default_directory_and_has_no_url(tmp_path: Path) -> None:
    market = HttpMarket.from_attributes({}, tmp_path)
    assert market.path("blob") == tmp_path / "blob"
    assert market.public_url("blob") is None


def test_an_empty_attribute_is_an_absent_one(tmp_path: Path) -> None:
    market = HttpMarket.from_attributes({"PUBLIC_DIR": "", "BASE_URL": ""}, tmp_path)
    assert market.path("blob") == tmp_path / "blob"
    assert market.public_url("blob") is None


@pytest.mark.parametrize("base_url", ["http://images.example.org/market", "http://images.example.org/market//"])
def test_a_blobs_url_is_its_name_below_the_base_url(tmp_path: Path, base_url: str) -> None:
    market = HttpMarket.from_attributes({"BASE_URL": base_url}, tmp_path)
    assert market.public_url("app-1.raw") == "http://images.example.org/market/app-1.raw"


def test_a_hostile_name_has_no_url(tmp_path: Path) -> None:
    market = HttpMarket.from_attributes({"BASE_URL": "https://[::1]:8443"}, tmp_path)
    with pytest.raises(BadInput):
        market.public_url("../secret")


@pytest.mark.parametrize(
    "base_url",
    [
        "images.example.org",
        "ftp://images.example.org",
        "file:///srv/market",
        "http://",
        "http:///market",
        "http://:80/market",
        "http://host:port",
        "http://host:70000",
        "http://host:0",
        "http://[::1",
        "http://ho st/",
        "http://host\\evil/",
        "http://host/\r\nX-Evil: 1",
        "http://höst/",
    ],
)
def test_a_base_url_that_is_no_web_url_is_bad_input(tmp_path: Path, base_url: str) -> None:
    with pytest.raises(BadInput, match="BASE_URL is not an http or https URL with a host"):
        HttpMarket.from_attributes({"BASE_URL": base_url}, tmp_path)


def test_a_base_url_with_a_password_is_refused_without_repeating_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="user or password") as caught:
        HttpMarket.from_attributes({"BASE_URL": "https://admin:hunter2@host/"}, tmp_path)
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("base_url", ["http://host/?a=b", "http://host/market?", "http://host/#top"])
def test_a_base_url_with_a_query_or_fragment_is_bad_input(tmp_path: Path, base_url: str) -> None:
    with pytest.raises(BadInput, match="query or a fragment"):
        HttpMarket.from_attributes({"BASE_URL": base_url}, tmp_path)


@pytest.mark.parametrize("public_dir", ["market", "./market", "../market", "/srv/../etc", "/srv/a\0b", "/srv/a\nb"])
def test_a_public_dir_must_be_an_absolute_path(tmp_path: Path, public_dir: str) -> None:
    with pytest.raises(BadInput, match="PUBLIC_DIR"):
        HttpMarket.from_attributes({"PUBLIC_DIR": public_dir}, tmp_path)


def test_any_web_server_can_read_the_blobs_whatever_the_umask(tmp_path: Path) -> None:
    market = HttpMarket(tmp_path / "public")
    umask = os.umask(0o077)
    try:
        put(market, "blob", b"public")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(market.path("blob").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o755


def test_what_is_staged_is_private(tmp_path: Path) -> None:
    market = HttpMarket(tmp_path / "public")
    with market.stage("blob", "job", 1) as staging:
        assert stat.S_IMODE(staging.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(staging.path.parent.stat().st_mode) == 0o700
