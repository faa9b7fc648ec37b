"""What is looked after: all tasks of upkeep, put together."""

import time
from functools import partial

from zone_agent.config import Config
from zone_agent.core import Core
from zone_agent.services.jobs import JobService
from zone_agent.upkeep.certificates import Certificates, watched
from zone_agent.upkeep.defragment import Defragmenter
from zone_agent.upkeep.duty import Task, Upkeep
from zone_agent.upkeep.expiry import Expiry
from zone_agent.upkeep.leftovers import Leftovers

DAY_SECONDS = 86400


def upkeep(config: Config, core: Core, jobs: JobService) -> Upkeep:
    """Return the upkeep of one agent; the staging of its stores is none of it, which Recovery sweeps twice a minute."""

    async def expire_jobs() -> None:
        await jobs.expire(time.time())

    view = core.catalogs.view
    expiry = Expiry(core.store, core.keyspace, core.replicas, time.time)
    catalogs = (view.own, view.private, *core.replicas.values())
    tasks = (
        Task("certificates", Certificates(partial(watched, config), core.alarms).look, of_zone=False),
        Task("the directories of markets", Leftovers(config.layout.markets, view, core.alarms).clear, of_zone=False),
        Task("lost records", partial(expiry.lost, config.upkeep.lost_days * DAY_SECONDS)),
        Task("requests", partial(expiry.requests, config.upkeep.requests_days * DAY_SECONDS)),
        Task("jobs", expire_jobs),
        # The last, because it may wait long for its moment.
        Task("etcd's database", Defragmenter(core.etcd.health, core.etcd.dial_patiently, lambda: catalogs).run),
    )
    return Upkeep(tasks, core.duties, config.timeouts.upkeep_seconds)
