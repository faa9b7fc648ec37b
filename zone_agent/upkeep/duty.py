"""The round of upkeep: tasks that an agent does now and then, each by itself."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from fedmarket.errors import FedmarketError
from zone_agent.duties import Duties

log = logging.getLogger(__name__)

DUTY = "upkeep"
FIRST_SECONDS = 10.0
"""After the start of the agent: when what is more urgent has been done."""


@dataclass(frozen=True, slots=True)
class Task:
    """Something that is looked after."""

    name: str
    run: Callable[[], Awaitable[None]]
    of_zone: bool = True
    """Whether one agent of the zone is enough; else each agent does it."""


class Upkeep:
    """Does the tasks of upkeep: those of the zone as the one agent whose duty that is."""

    def __init__(
        self, tasks: Sequence[Task], duties: Duties, interval_seconds: float, first_seconds: float = FIRST_SECONDS
    ) -> None:
        self._tasks = tasks
        self._duties = duties
        self._interval = interval_seconds
        self._first = first_seconds

    async def run(self) -> None:
        """Go round again and again, for ever, and not in step with other zones."""
        await asyncio.sleep(min(self._first, self._interval))
        while True:
            await self.round()
            await asyncio.sleep(self._interval * (0.5 + random.random()))  # noqa: S311 - no secret

    async def round(self) -> None:
        """Do every task once. One that fails keeps no other from being done, and is tried again the next time."""
        for task in self._tasks:
            if not task.of_zone:
                await self._do(task)
        try:
            ours = await self._duties.try_claim(DUTY)
        except FedmarketError as error:
            log.warning("upkeep is left for the next time: %s", error.message)
            return
        for task in self._tasks:
            if task.of_zone and ours:
                await self._do(task)

    async def _do(self, task: Task) -> None:
        try:
            await task.run()
        except FedmarketError as error:
            log.warning("upkeep of %s failed: %s", task.name, error.message)
        except Exception:  # the supervisor of the tasks: whatever happened to one, the others are done
            log.exception("upkeep of %s failed", task.name)
