"""Where the files of a zone lie: all in the directory of its zone.toml."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The zone's directory: what the zone must not lose, and what it works with."""

    directory: Path

    @property
    def config(self) -> Path:
        """The settings."""
        return self.directory / "zone.toml"

    @property
    def key(self) -> Path:
        """The zone's private key. Lost, it cannot be made again."""
        return self.directory / "keys" / "zone.key"

    @property
    def public_key(self) -> Path:
        """The public half as text, for the zone.toml of other zones."""
        return self.directory / "keys" / "zone.pub"

    @property
    def state(self) -> Path:
        """Small files that must survive the loss of etcd."""
        return self.directory / "state"

    @property
    def high_water(self) -> Path:
        """The mark below which no id and no sequence number may be used again."""
        return self.state / "high-water"

    @property
    def etcd(self) -> Path:
        """Data of an embedded etcd."""
        return self.directory / "etcd"

    @property
    def markets(self) -> Path:
        """Bytes of markets that were given no directory of their own."""
        return self.directory / "markets"

    @property
    def datastores(self) -> Path:
        """Images of the datastore `default`."""
        return self.directory / "datastores"
