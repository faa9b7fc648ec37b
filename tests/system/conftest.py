"""Fixtures: zones of a test's own, and a pair that the tests of a module share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.zones import Pair, Zone, Zones, yard


@pytest.fixture
def zones(tmp_path: Path) -> Iterator[Zones]:
    """Makes zones that belong to one test, and may be broken by it."""
    with yard(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Berlin and tokyo, following each other. Shared: use names of your own, and leave both running."""
    with yard(tmp_path_factory.mktemp("zones")) as made:
        yield made.pair()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zone]:
    """A zone without peers. Shared: use names of your own, and leave it running."""
    with yard(tmp_path_factory.mktemp("alone")) as made:
        zone = made.make(7, "lima")
        zone.start()
        yield zone
