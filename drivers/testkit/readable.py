"""Promises of Readable that need no blob."""

import pytest

from drivers.capabilities import Readable
from drivers.testkit.blobs import HOSTILE_NAMES, new_name
from fedmarket.errors import BadInput, NotFound


class ReadableSuite:
    """A store that can be read."""

    def test_a_missing_blob_is_not_found(self, driver: Readable) -> None:
        """With a message that names it."""
        name = new_name()
        with pytest.raises(NotFound, match=name):
            driver.open(name)

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_a_hostile_name_is_not_opened(self, driver: Readable, name: str) -> None:
        """It never reaches a path or a key."""
        with pytest.raises(BadInput):
            driver.open(name)
