"""The directories of markets that are gone: emptied of what jobs left there, and removed."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from drivers.files import STAGING
from federation.view import View
from fedmarket.pb.fedmarket.v1.record_pb2 import MarketRecord
from fedmarket.threads import in_thread
from zone_agent.upkeep.alarms import Alarms

log = logging.getLogger(__name__)

SOURCE = "leftovers"
IDLE_SECONDS = 86400.0
"""For so long nothing may have changed in a directory: the record of its market may be on its way here."""


class Leftovers:
    """Looks after `markets/` of this host, where each market without a directory of its own has one named by its id."""

    def __init__(self, markets: Path, view: View, alarms: Alarms, clock: Callable[[], float] = time.time) -> None:
        self._markets = markets
        self._view = view
        self._alarms = alarms
        self._clock = clock

    async def clear(self) -> None:
        """Remove the directories of markets that are gone.

        Blobs are never removed: a market is deleted when it is empty, so they are of a catalog that was put back, and
        perhaps all that is left of it. They are an alarm.
        """
        if self._view.own.fault or self._view.private.fault:
            return  # which markets there are is not known
        kept = {}
        for market_id, directory in (await in_thread(self._numbered)).items():
            gone = self._view.get(MarketRecord, market_id) is None
            if gone and await in_thread(partial(self._is_kept, directory)):
                kept[str(market_id)] = (
                    f"{directory} holds blobs of a market that is in no catalog of this zone: look what they are, "
                    "and remove the directory if nobody misses them"
                )
        self._alarms.report(SOURCE, kept)

    def _numbered(self) -> dict[int, Path]:
        entries = self._markets.iterdir() if self._markets.exists() else ()
        return {int(each.name): each for each in entries if each.name.isdecimal() and not each.is_symlink()}

    def _is_kept(self, directory: Path) -> bool:
        """Remove what can be removed, and return whether blobs are left."""
        files = [file for file in directory.rglob("*") if not file.is_dir()]
        newest = max(path.lstat().st_mtime for path in (directory, *files))
        if self._clock() - newest < IDLE_SECONDS:
            return False
        for file in files:
            if STAGING in file.relative_to(directory).parts:
                file.unlink(missing_ok=True)
        folders = sorted((path for path in directory.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
        with suppress(OSError):  # not empty
            for folder in (*folders, directory):
                folder.rmdir()
            log.info("removed %s, the directory of a market that is gone", directory)
        return directory.exists()
