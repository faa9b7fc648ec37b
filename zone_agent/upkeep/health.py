"""The health of a zone's etcd: asked of each member now and then, beside the hot path.

It is what alarms and metrics are made from, and what a change is told that etcd has no room for.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from federation.etcd.alarms import CORRUPT, NOSPACE, alarms_in
from federation.etcd.client import EtcdClient
from fedmarket.errors import FedmarketError
from fedmarket.units import human_size
from zone_agent.upkeep.alarms import Alarms

SOURCE = "etcd"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """Bounds, in seconds, and when to warn."""

    interval_seconds: float = 30.0
    """Between two looks."""
    worried_seconds: float = 5.0
    """The same while something is wrong, which a person may be about to mend."""
    fresh_seconds: float = 1.0
    """For so long a look answers whoever asks again."""
    nearly_full: float = 0.8
    """Part of the quota from which on there is an alarm, before etcd stops taking changes."""


DEFAULT_SETTINGS = HealthSettings()


@dataclass(frozen=True, slots=True)
class MemberHealth:
    """What a member said last."""

    endpoint: str
    error: str = ""
    """Why it did not answer the last time; what stands below is then nothing."""
    id: int = 0
    version: str = ""
    size: int = 0
    """Bytes of its database's file, which is what its quota limits."""
    in_use: int = 0
    """Bytes of it that a defragmentation would leave."""
    quota: int = 0
    """In bytes; 0: etcd does not tell before 3.6, and it is no child of ours."""
    leads: bool = False
    """Whether it is the leader."""
    revision: int = 0
    alarms: frozenset[str] = frozenset()
    """The kinds of etcd's own alarms that it knows to be on."""

    @property
    def free(self) -> int:
        """Bytes that a defragmentation would give back."""
        return self.size - self.in_use


class EtcdHealth:
    """Looks at every member that zone.toml names. `run` must be running."""

    def __init__(
        self,
        clients: Mapping[str, EtcdClient],
        alarms: Alarms,
        config: Path,
        quota: int,
        settings: HealthSettings = DEFAULT_SETTINGS,
    ) -> None:
        self._clients = clients
        """By endpoint, one of each member alone."""
        self._alarms = alarms
        self._config = config
        self._quota = quota
        """Of an etcd that is a child of this agent; 0: it runs elsewhere."""
        self._settings = settings
        self._members: Sequence[MemberHealth] = ()
        self._looked_at = -math.inf
        self._one = asyncio.Lock()

    @property
    def members(self) -> Sequence[MemberHealth]:
        """What each endpoint of zone.toml said last; none before the first look."""
        return self._members

    @property
    def etcd_alarms(self) -> frozenset[str]:
        """The kinds of etcd's own alarms that are on: NOSPACE, CORRUPT."""
        return frozenset().union(*(member.alarms for member in self._members))

    @property
    def embedded(self) -> bool:
        """Whether it is a child of this agent, whose database is ours to look after."""
        return bool(self._quota)

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await self.look()
            worried = bool(self._sentences())
            await asyncio.sleep(self._settings.worried_seconds if worried else self._settings.interval_seconds)

    async def look(self, *, anew: bool = False) -> None:
        """Ask every member now, and say by alarms what is wrong; unless `anew`, what was asked just now will do."""
        if anew:
            self._looked_at = -math.inf
        async with self._one:
            now = asyncio.get_running_loop().time
            if now() - self._looked_at < self._settings.fresh_seconds:
                return
            self._members = await asyncio.gather(*(self._ask(*member) for member in self._clients.items()))
            self._looked_at = now()
            self._alarms.report(SOURCE, self._sentences())

    async def when_full(self) -> str:
        """Return what a change is told that etcd refused for lack of space."""
        await self.look(anew=NOSPACE not in self.etcd_alarms)
        return self._full()

    async def _ask(self, endpoint: str, client: EtcdClient) -> MemberHealth:
        try:
            status = await client.status()
        except FedmarketError as error:
            return MemberHealth(endpoint, error.message)
        return MemberHealth(
            endpoint,
            id=status.header.member_id,
            version=status.version,
            size=status.dbSize,
            in_use=status.dbSizeInUse,
            quota=self._quota or status.dbSizeQuota,
            leads=status.leader == status.header.member_id,
            revision=status.header.revision,
            alarms=frozenset(alarm.kind for alarm in alarms_in(status)),
        )

    def _sentences(self) -> dict[str, str]:
        found = {member.endpoint: member.error for member in self._members if member.error}
        if NOSPACE in self.etcd_alarms:
            return found | {NOSPACE: self._full()}
        if CORRUPT in self.etcd_alarms:
            found[CORRUPT] = (
                f"{self._where} says that its members hold different data (its CORRUPT alarm), and takes no changes: "
                "take the member that differs out of the cluster, as etcd's documentation tells"
            )
        fullest = max((m for m in self._members if m.quota), key=lambda m: m.size / m.quota, default=None)
        if fullest is not None and fullest.size >= self._settings.nearly_full * fullest.quota:
            found["nearly full"] = (
                f"{self._where} is nearly full ({_figures(fullest)}): run {self._command('compact')} and then "
                f"{self._command('defrag')}, and {self._raise_quota()} if that does not help"
            )
        return found

    def _full(self) -> str:
        answered = [member for member in self._members if not member.error]
        fullest = max(answered, key=lambda member: member.size, default=None)
        figures = f" ({_figures(fullest)})" if fullest is not None else ""
        cure = ", then ".join(self._command(name) for name in ("compact", "defrag", "disarm"))
        return f"{self._where} has no space left{figures}, so it can only be read: run {cure}"

    @property
    def _where(self) -> str:
        return f"etcd at {', '.join(self._clients)}"

    def _command(self, name: str) -> str:
        return f"`fedmarket etcd {name} --config {quote(str(self._config))}`"

    def _raise_quota(self) -> str:
        return "raise [etcd] quota_mb" if self.embedded else "raise its --quota-backend-bytes"


def _figures(member: MemberHealth) -> str:
    quota = f" of the {human_size(member.quota)} that its quota allows" if member.quota else ""
    return f"its database has {human_size(member.size)}{quota}, {human_size(member.in_use)} of them in use"
