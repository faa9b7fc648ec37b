"""The conformance suite of drivers, by capability: what capabilities.py promises, as tests. Needs pytest.

A driver's own test is a subclass with one fixture. It takes the suites of what the driver can do:

    class TestMyMarket(WritableSuite, DeletableSuite, SizedSuite):
        @pytest.fixture
        def driver(self, tmp_path):
            return MyMarket(tmp_path)

Each test gets a fresh driver. Its store may be shared with other tests (a bucket, a pool): object names are random.
"""

import pytest

# Before the import below: pytest explains a failed assert only in modules that it rewrites.
_SUITES = ("deletable", "on_disk", "published", "readable", "sized", "writable")
pytest.register_assert_rewrite(*(f"{__name__}.{suite}" for suite in _SUITES))

from drivers.testkit.deletable import DeletableSuite  # noqa: E402
from drivers.testkit.on_disk import OnDiskSuite  # noqa: E402
from drivers.testkit.published import PublishedSuite  # noqa: E402
from drivers.testkit.readable import ReadableSuite  # noqa: E402
from drivers.testkit.sized import SizedSuite  # noqa: E402
from drivers.testkit.writable import WritableSuite  # noqa: E402

__all__ = ["DeletableSuite", "OnDiskSuite", "PublishedSuite", "ReadableSuite", "SizedSuite", "WritableSuite"]
