"""The `fs` datastore: images as files of one directory of this host."""

from collections.abc import Mapping
from pathlib import Path

from drivers.files import BlobDirectory
from drivers.settings import absolute_directory


class FsDatastore(BlobDirectory):
    """Images in BASE_PATH, readable to the agent's user and group only."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, file_mode=0o640)

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, str], default: Path) -> "FsDatastore":
        """Make it from the datastore's attributes; `default` is the directory of one without BASE_PATH.

        Raises BadInput. Touches no disk.
        """
        directory = attributes.get("BASE_PATH")
        return cls(absolute_directory("BASE_PATH", directory) if directory else default)
