"""Promises of Published."""

from collections.abc import Callable
from typing import Protocol
from urllib.request import urlopen

import pytest

from drivers.capabilities import Published
from drivers.testkit.blobs import Store, new_name, put

Fetch = Callable[[str], bytes]


class PublishedStore(Store, Published, Protocol):
    """A store whose blobs have URLs."""


class PublishedSuite:
    """A store whose blobs have URLs of their own. The `driver` fixture sees to it that they are served.

    Override `fetch` where a GET needs more than that, for instance a test's own certificate.
    """

    @pytest.fixture
    def fetch(self) -> Fetch:
        """Return what GETs a URL and returns the body."""

        def get(url: str) -> bytes:
            with urlopen(url, timeout=30) as answer:  # noqa: S310 - the driver's own http or https URL
                body: bytes = answer.read()
            return body

        return get

    def test_the_public_url_answers_the_bytes(self, driver: PublishedStore, fetch: Fetch) -> None:
        """Those that were committed."""
        name, data = new_name(), b"published " * 1000
        put(driver, name, data)
        url = driver.public_url(name)
        assert url is not None
        assert fetch(url) == data
