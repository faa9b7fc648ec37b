"""The high-water mark: what this zone is known to have committed, kept in a file outside etcd.

It survives the loss of etcd. With it, an agent whose store is empty or older than the mark knows that the store was
lost or put back, and does not give out ids or heads a second time. `none` is what `agent init` writes: only that mark
lets an agent begin epoch 1 on an empty store.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from federation.head import FEDERATION, CatalogId, Head, Pair
from fedmarket.errors import ConfigError
from fedmarket.threads import in_thread

NONE = "none"
_NAMES: dict[CatalogId, str] = {FEDERATION: "federation"}
_PRIVATE_NAME = "private"


@dataclass(frozen=True, slots=True)
class Mark:
    """A head's place and the ids given out by then."""

    epoch: int
    seq: int
    next_ids: Mapping[str, int]

    @property
    def pair(self) -> Pair:
        """(epoch, seq)."""
        return self.epoch, self.seq


def initialise(path: Path) -> None:
    """Write the mark of a zone that has never committed anything."""
    _write(path, dict.fromkeys([*_NAMES.values(), _PRIVATE_NAME], NONE))


class HighWater:
    """The file, and what is to be written to it: at most once a second, by `run`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marks = _read(path)
        self._dirty = asyncio.Event()

    def mark(self, catalog: CatalogId) -> Mark | None:
        """Return the mark of a catalog; None if it never had a commit."""
        return self._marks[_name(catalog)]

    def note(self, head: Head) -> None:
        """Remember a head whose commit is known."""
        known = self._marks[_name(head.catalog)]
        if known is None or head.pair > known.pair:
            self._marks[_name(head.catalog)] = Mark(head.epoch, head.seq, dict(head.next_ids))
            self._dirty.set()

    async def run(self, interval_seconds: float = 1.0) -> None:
        """Write what was noted, for ever, and once more at the end."""
        try:
            while True:
                await self._dirty.wait()
                await self.flush()
                await asyncio.sleep(interval_seconds)
        finally:
            await self.flush()

    async def flush(self) -> None:
        """Write what was noted now."""
        self._dirty.clear()
        text = self._text()
        try:
            await in_thread(lambda: _write(self._path, text))
        except OSError:
            self._dirty.set()
            raise

    def _text(self) -> dict[str, object]:
        return {name: NONE if mark is None else _as_json(mark) for name, mark in self._marks.items()}


def _as_json(mark: Mark) -> dict[str, object]:
    return {"epoch": mark.epoch, "seq": mark.seq, "next_ids": dict(sorted(mark.next_ids.items()))}


def _name(catalog: CatalogId) -> str:
    return _NAMES.get(catalog, _PRIVATE_NAME)


def _read(path: Path) -> dict[str, Mark | None]:
    try:
        raw = json.loads(path.read_text())
        return {
            name: None if raw[name] == NONE else Mark(raw[name]["epoch"], raw[name]["seq"], raw[name]["next_ids"])
            for name in [*_NAMES.values(), _PRIVATE_NAME]
        }
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} is missing, so it cannot be told whether this zone has ever committed anything: "
            "put it back from a backup of the zone's directory"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}): put it back from a backup of the zone's directory"
        ) from error


def _write(path: Path, content: Mapping[str, object]) -> None:
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
