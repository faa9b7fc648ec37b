"""Promises of OnDisk."""

from typing import Protocol

import pytest

from drivers.capabilities import OnDisk
from drivers.testkit.blobs import HOSTILE_NAMES, Store, get, is_visible, new_fence, new_name, put, sweep_of
from fedmarket.errors import BadInput


class OnDiskStore(Store, OnDisk, Protocol):
    """A store whose blobs are files."""


class OnDiskSuite:
    """A store whose blobs are files of this host."""

    def test_the_path_holds_the_bytes(self, driver: OnDiskStore) -> None:
        """And says where a blob would be, before it is there."""
        name = new_name()
        assert not driver.path(name).exists()
        put(driver, name, b"bytes")
        assert driver.path(name).read_bytes() == b"bytes"

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_a_hostile_name_has_no_path(self, driver: OnDiskStore, name: str) -> None:
        """It could lead out of the store."""
        with pytest.raises(BadInput):
            driver.path(name)

    def test_a_program_writes_a_staged_file(self, driver: OnDiskStore) -> None:
        """Of a size that nobody announced; invisible until the commit."""
        name = new_name()
        with driver.stage_file(name, new_fence()) as staging:
            with staging.path.open("r+b") as file:
                file.write(b"written by a program")
            assert not is_visible(driver, name)
            staging.commit()
        assert get(driver, name) == b"written by a program"

    def test_an_aborted_file_leaves_nothing(self, driver: OnDiskStore) -> None:
        """No blob, no leftover."""
        name, fence = new_name(), new_fence()
        with driver.stage_file(name, fence) as staging:
            staging.path.write_bytes(b"half")
        assert not is_visible(driver, name)
        assert not staging.path.exists()
        assert sweep_of(driver, fence) == 0
