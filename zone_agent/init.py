"""`fedmarket agent init`: makes the directory of a new zone, whole or not at all."""

import errno
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from federation import highwater
from federation.trust.keys import ZoneKey
from fedmarket.errors import AlreadyExists, BadInput, ConfigError
from zone_agent.address import Address
from zone_agent.config import Config, load
from zone_agent.config.layout import Layout
from zone_agent.config.render import Values, peers_toml, zone_toml

ADMIN = "oneadmin"
SECRET_BYTES = 24
PRIVATE_DIRECTORY = 0o700
PRIVATE_FILE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class NewZone:
    """What a zone is made with; what is None takes its default."""

    id: int
    name: str
    http: Address | None = None
    grpc: Address | None = None
    peer: Address | None = None
    embedded_etcd: bool = True
    etcd_endpoints: tuple[str, ...] = ()

    def tables(self) -> dict[str, Values]:
        """Return the settings that go into zone.toml."""
        listeners = {"http": self.http, "grpc": self.grpc, "peer": self.peer}
        tables: dict[str, Values] = {name: {"listen": at} for name, at in listeners.items() if at is not None}
        tables["zone"] = {"id": self.id, "name": self.name}
        if self.etcd_endpoints or not self.embedded_etcd:
            tables["etcd"] = {"embedded": self.embedded_etcd, "endpoints": self.etcd_endpoints}
        return tables


@dataclass(frozen=True, slots=True)
class MadeZone:
    """A zone that was made."""

    config: Config
    key: str
    """Its public key as text."""

    @property
    def peers_toml(self) -> str:
        """The table that the other zones need in their zone.toml."""
        peer = self.config.peer
        return peers_toml(self.config.zone.id, peer.public_address(peer.listen.port), self.key)


def make_zone(directory: Path, new: NewZone) -> MadeZone:
    """Make a zone in `directory`, which is not there yet or empty. Blocking.

    It is built beside and renamed, so that a failure leaves nothing. Raises AlreadyExists if something is in the
    directory, BadInput or ConfigError if the settings do not hold or the directory cannot be written.
    """
    target = directory.absolute()
    try:
        _refuse_used(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.init-", dir=target.parent))
        try:
            key = _build(Layout(building), new)
            _publish(building, target)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        _sync(target.parent)
    except OSError as error:
        raise ConfigError(
            f"the zone cannot be made in {target} ({error.strerror}): choose a directory whose parent you can write"
        ) from error
    return MadeZone(load(Layout(target).config, environ={}), key)


def _build(layout: Layout, new: NewZone) -> str:
    """Fill the directory and return the public key as text."""
    default = layout.datastores / "default"
    for directory in (layout.key.parent, layout.state, layout.markets, default):
        directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True)
    datastore = {"name": "default", "path": default.relative_to(layout.directory)}
    _write(layout.config, zone_toml(new.tables(), [datastore]))
    config = _checked(layout.config)
    zone_key = ZoneKey.generate()
    zone_key.save(layout.key)
    public = str(zone_key.public)
    _write(layout.public_key, f"{public}\n")
    _write(config.auth.credentials, f"{ADMIN}:{secrets.token_urlsafe(SECRET_BYTES)}\n")
    highwater.initialise(layout.high_water)
    for directory in (layout.key.parent, layout.state, layout.directory):
        _sync(directory)
    return public


def _checked(file: Path) -> Config:
    """Load what was written. An error names the setting; the file, which will not stay, is left out of it."""
    try:
        return load(file, environ={})  # what is written must hold by itself
    except ConfigError as error:
        _, _, problem = error.message.partition(": ")
        raise BadInput(f"no zone was made: {problem}") from error


def _publish(building: Path, target: Path) -> None:
    """Rename. An empty directory is replaced; one that came into use meanwhile is not."""
    try:
        building.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            raise _used(target) from error
        raise


def _refuse_used(target: Path) -> None:
    if target.is_dir():
        if any(target.iterdir()):
            raise _used(target)
    elif target.exists() or target.is_symlink():
        raise _used(target)


def _used(target: Path) -> AlreadyExists:
    if Layout(target).config.exists():
        return AlreadyExists(
            f"{target} holds a zone already: run it with `fedmarket agent run --config {Layout(target).config}`, "
            "or choose another directory"
        )
    return AlreadyExists(f"{target} exists and is not an empty directory: choose another one")


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
