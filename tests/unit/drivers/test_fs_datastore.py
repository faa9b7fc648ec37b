import stat
from pathlib import Path

import pytest

from drivers.capabilities import Deletable, OnDisk, Published, Readable, Sized, Writable
from drivers.datastore.fs import FsDatastore
from drivers.testkit import DeletableSuite, OnDiskSuite, SizedSuite, WritableSuite
from drivers.testkit.blobs import put
from fedmarket.errors import BadInput


class TestFsDatastore(WritableSuite, DeletableSuite, SizedSuite, OnDiskSuite):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> FsDatastore:
        return FsDatastore(tmp_path / "images")


def test_it_stores_but_does_not_publish(tmp_path: Path) -> None:
    datastore = FsDatastore(tmp_path)
    for capability in (Readable, Writable, Deletable, Sized, OnDisk):
        assert isinstance(datastore, capability)
    assert not isinstance(datastore, Published)


def test_images_are_not_for_everybody(tmp_path: Path) -> None:
    datastore = FsDatastore(tmp_path)
    put(datastore, "image", b"private")
    assert stat.S_IMODE(datastore.path("image").stat().st_mode) == 0o640


def test_its_directory_is_base_path_or_the_default(tmp_path: Path) -> None:
    assert FsDatastore.from_attributes({}, tmp_path).path("a") == tmp_path / "a"
    assert FsDatastore.from_attributes({"BASE_PATH": "/srv/images"}, tmp_path).path("a") == Path("/srv/images/a")


def test_base_path_must_be_absolute(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="BASE_PATH 'images' is not an absolute path"):
        FsDatastore.from_attributes({"BASE_PATH": "images"}, tmp_path)
