"""The `http` market: blobs in a directory that a web server publishes, OpenNebula's `http` market driver."""

from collections.abc import Mapping
from pathlib import Path

from drivers.files import BlobDirectory
from drivers.settings import absolute_directory, web_url


class HttpMarket(BlobDirectory):
    """Blobs in PUBLIC_DIR, which a web server answers below BASE_URL."""

    def __init__(self, directory: Path, base_url: str | None = None) -> None:
        # Any web server of this host, whatever its user, can read them.
        super().__init__(directory, file_mode=0o644)
        self._base_url = base_url

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, str], default: Path) -> "HttpMarket":
        """Make it from the market's attributes; `default` is the directory of one without PUBLIC_DIR.

        Raises BadInput. Touches no disk.
        """
        directory = attributes.get("PUBLIC_DIR")
        base_url = attributes.get("BASE_URL")
        return cls(
            absolute_directory("PUBLIC_DIR", directory) if directory else default,
            web_url("BASE_URL", base_url) if base_url else None,
        )

    def public_url(self, name: str) -> str | None:
        """Return BASE_URL/name, or None without a BASE_URL: then the agent serves the bytes itself."""
        path = self.path(name)
        return f"{self._base_url}/{path.name}" if self._base_url else None
