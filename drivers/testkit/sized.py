"""Promises of Sized."""

from typing import Protocol

from drivers.capabilities import Sized
from drivers.testkit.blobs import Store, new_name, put


class SizedStore(Store, Sized, Protocol):
    """A store that knows its space."""


class SizedSuite:
    """A store that knows its space."""

    def test_the_space_adds_up(self, driver: SizedStore) -> None:
        """Nothing negative, and no more than there is; a file system may keep a share from us."""
        put(driver, new_name(), b"something")
        usage = driver.usage()
        assert usage.total_mb > 0
        assert usage.free_mb >= 0
        assert usage.used_mb >= 0
        assert usage.free_mb + usage.used_mb <= usage.total_mb
