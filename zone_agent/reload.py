"""Reload: zone.toml, the environment and the files they name are read anew, and what is safe to change is changed.

Nothing is applied before all of it was read and holds. A table of rules says what can be applied while the agent runs;
every other setting that differs is named, and waits for a restart.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, fields
from typing import Any

from fedmarket.errors import FedmarketError
from fedmarket.threads import in_thread
from zone_agent.config import Config
from zone_agent.config.load import read
from zone_agent.config.schema import TABLES

log = logging.getLogger(__name__)

Values = dict[str, Any]
"""What settings amount to, files included, by their names as they are written: `[http] url`."""


class NeedsRestart(Exception):
    """A value that cannot be applied, though others of the same setting can."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How some settings are changed in an agent that runs."""

    held: Values
    """What they are from the start."""
    read: Callable[[Config], Values]
    """Returns what they are. Runs in a thread. Raises ConfigError if a file does not hold."""
    apply: Callable[[Values], Coroutine[Any, Any, None]]
    """Makes values hold, some of them new. Raises NeedsRestart, or FedmarketError: the next reload tries it again."""


class Reloader:
    """Reloads one agent."""

    def __init__(self, config: Config, rules: Sequence[Rule]) -> None:
        self._started = config
        self._rules = rules
        self._held = [rule.held for rule in rules]
        """What holds in the agent, by rule."""

    async def run(self, asked: asyncio.Event) -> None:
        """Reload whenever the event is set, for ever. What is asked for meanwhile is one more reload."""
        while True:
            await asked.wait()
            asked.clear()
            await self.reload()

    async def reload(self) -> None:
        """Reload, and log what was applied and what was not. Something that does not hold changes nothing."""
        try:
            wanted, values = await in_thread(self._read)
        except FedmarketError as error:
            log.error("reload: nothing was changed: %s", error.message)
            return
        if wanted is None:
            return
        live = {name for known in (self._held, values) for by_name in known for name in by_name}
        waiting = [name for name in _different(_flat(self._started), _flat(wanted)) if name not in live]
        applied: list[str] = []
        for index, rule in enumerate(self._rules):
            changed = [name for name in _different(self._held[index], values[index]) if name in values[index]]
            if not changed:
                continue
            try:
                await rule.apply(values[index])
            except NeedsRestart:
                waiting += changed
            except FedmarketError as error:
                log.error("reload: %s not applied, so reload again: %s", ", ".join(changed), error.message)
            else:
                self._held[index] = values[index]
                applied += changed
        for name in waiting:
            log.warning("reload: %s has changed and needs a restart", name)
        log.info("reload: %s", f"applied {', '.join(applied)}" if applied else "nothing to apply")

    def _read(self) -> tuple[Config | None, list[Values]]:
        """Read everything anew; None if settings do not hold. Raises ConfigError if a file does not."""
        reading = read(self._started.file)
        for problem in reading.problems:
            log.error("reload: nothing was changed: %s", problem.message)
        config = reading.config
        return config, [rule.read(config) for rule in self._rules] if config else []


def _different(old: Values, new: Values) -> list[str]:
    return [name for name in old | new if (name in old) != (name in new) or old.get(name) != new.get(name)]


def _flat(config: Config) -> Values:
    """Return the settings by their names; of a peer its key: a peer is added, removed or replaced as a whole."""
    flat: Values = {
        f"[{table}] {field.name}": getattr(getattr(config, table), field.name)
        for table, cls in TABLES.items()
        for field in fields(cls)
    }
    return flat | {f"[[peers]] of zone {peer.id}": peer.key for peer in config.peers}
