"""What an attempt of a job leaves in a store: files in staging, perhaps a blob that no READY record speaks of."""

import logging

from drivers.capabilities import Deletable, Writable
from fedmarket.errors import FedmarketError
from fedmarket.threads import in_thread
from zone_agent.jobs.job import belongs

log = logging.getLogger(__name__)


async def clear(store: object, fence: str, name: str) -> None:
    """Remove what jobs of a fence have staged, and the blob `name` if it was published. May be done again."""

    def work() -> None:
        if isinstance(store, Writable):
            store.sweep(lambda staged: not belongs(staged, fence))
        if name and isinstance(store, Deletable):
            store.delete(name)

    await in_thread(work)


async def try_to_clear(store: object, fence: str, name: str) -> None:
    """Clear after a failure; what cannot be removed now is named by a record in ERROR, or swept later."""
    try:
        await clear(store, fence, name)
    except FedmarketError as error:
        log.warning("what %s left stays for now: %s", fence, error.message)


async def remove(store: object, name: str) -> None:
    """Remove a blob. Raises what the store raises if it may still be there."""
    if name and isinstance(store, Deletable):
        await in_thread(lambda: store.delete(name))
