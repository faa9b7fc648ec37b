from pathlib import Path

import pytest

from drivers.capabilities import Writable
from drivers.datastore.fs import FsDatastore
from drivers.market.http import HttpMarket
from drivers.registry import DATASTORE_DRIVERS, MARKET_DRIVERS, Attribute, Driver, datastore_driver, market_driver
from fedmarket.errors import BadInput


@pytest.mark.parametrize("driver", [*MARKET_DRIVERS.values(), *DATASTORE_DRIVERS.values()], ids=lambda d: d.name)
def test_every_driver_can_be_loaded(driver: Driver, tmp_path: Path) -> None:
    assert isinstance(driver.make({}, tmp_path), Writable)


def test_drivers_are_found_by_name_and_kind(tmp_path: Path) -> None:
    assert isinstance(market_driver("http").make({}, tmp_path), HttpMarket)
    assert isinstance(datastore_driver("fs").make({}, tmp_path), FsDatastore)


def test_an_http_market_is_federated_unless_asked_otherwise() -> None:
    driver = market_driver("http")
    assert (driver.scope, driver.public, driver.secrets) == ("federation", False, frozenset())


@pytest.mark.parametrize("name", ["fs", "HTTP", "", "x" * 1000])
def test_an_unknown_market_driver_is_bad_input_that_names_the_known(name: str) -> None:
    with pytest.raises(BadInput, match=r"there is no market driver .*: choose one of http$") as caught:
        market_driver(name)
    assert len(caught.value.message) < 200


def test_an_unknown_datastore_driver_is_bad_input_that_names_the_known() -> None:
    with pytest.raises(BadInput, match=r"there is no datastore driver 'ceph': choose one of fs$"):
        datastore_driver("ceph")


def test_unknown_attributes_are_allowed(tmp_path: Path) -> None:
    assert market_driver("http").make({"BRIDGE_LIST": "host1 host2", "COLOUR": "blue"}, tmp_path)


def test_bad_attributes_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="PUBLIC_DIR"):
        market_driver("http").make({"PUBLIC_DIR": "relative"}, tmp_path)


STRICT = Driver(
    name="strict",
    kind="market",
    summary="an example",
    module="drivers.market.http",
    factory="HttpMarket",
    attributes=(
        Attribute("BUCKET", "the bucket's name", required=True),
        Attribute("SECRET_ACCESS_KEY", "the key", required=True, secret=True),
    ),
)


@pytest.mark.parametrize("attributes", [{}, {"BUCKET": ""}])
def test_a_missing_attribute_is_named_with_what_it_means(attributes: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a strict market needs BUCKET: set it to the bucket's name"):
        STRICT.make(attributes, tmp_path)


def test_secrets_are_known_by_name() -> None:
    assert STRICT.secrets == {"SECRET_ACCESS_KEY"}
