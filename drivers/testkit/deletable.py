"""Promises of Deletable."""

import pytest

from drivers.testkit.blobs import HOSTILE_NAMES, DeletableStore, get, is_visible, new_name, put
from fedmarket.errors import BadInput


class DeletableSuite:
    """A store whose blobs can be removed."""

    def test_a_deleted_blob_is_gone_and_its_name_free(self, driver: DeletableStore) -> None:
        """Another may be stored under it."""
        name = new_name()
        put(driver, name, b"one")
        driver.delete(name)
        assert not is_visible(driver, name)
        put(driver, name, b"two")
        assert get(driver, name) == b"two"

    def test_a_delete_can_be_repeated(self, driver: DeletableStore) -> None:
        """A blob that is not there is already removed."""
        name = new_name()
        put(driver, name, b"one")
        driver.delete(name)
        driver.delete(name)
        driver.delete(new_name())

    def test_a_delete_touches_no_other_blob_of_equal_bytes(self, driver: DeletableStore) -> None:
        """One stored object per app, never shared."""
        name, other = new_name(), new_name()
        put(driver, name, b"equal")
        put(driver, other, b"equal")
        driver.delete(name)
        assert get(driver, other) == b"equal"

    def test_an_open_blob_is_read_to_its_end_after_its_delete(self, driver: DeletableStore) -> None:
        """Or fails: it never turns into other bytes."""
        name = new_name()
        put(driver, name, b"first part, second part")
        with driver.open(name) as blob:
            driver.delete(name)
            put(driver, name, b"FIRST PART, SECOND PART")
            assert blob.read() == b"first part, second part"

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_a_hostile_name_is_not_deleted(self, driver: DeletableStore, name: str) -> None:
        """It never reaches a path or a key."""
        with pytest.raises(BadInput):
            driver.delete(name)
