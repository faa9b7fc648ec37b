"""Reading a peer where its agents write, in an etcd that both zones share: then no stream is needed.

Nobody says that an etcd is shared. A head of the peer, under its pinned key, that is seen at catalog/<peer>/ in our own
etcd, and another one soon after, say it; when none has come for a while, the peer is followed by a stream again.
"""

import asyncio
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from federation.catalog import Catalog, Publication
from federation.commit import MAX_RECORD
from federation.head import FEDERATION, Pair, SealedHead, Verifier, unseal_bytes
from federation.keys import HEAD, BadKey, Keyspace, check_home
from federation.link.sink import Close, State
from federation.pulse import Pulse
from federation.store import Store, Txn
from federation.tree import Tree
from fedmarket.errors import Corrupt, NoSpace, Unavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DirectSettings:
    """Bounds of reading directly."""

    window_seconds: float = 15.0
    """A head that is followed by no other for so long says no more that the etcd is shared."""
    keep_seconds: float = 1.0
    """Pause between two writes of the last head that was seen."""


class Direct:
    """What our own etcd holds of a peer by the peer's own hand. `run` must be running."""

    def __init__(
        self, keyspace: Keyspace, peer: int, key: Verifier, store: Store, replica: Catalog, settings: DirectSettings
    ) -> None:
        self._at_head = keyspace.replica(peer) + HEAD
        self._peer = peer
        self._key = key
        self._store = store
        self._replica = replica
        self._settings = settings
        self._heads = 0
        """How many different heads were seen in a row, each within the window of the one before."""
        self._seen_at = 0.0
        self._last_seen = b""
        self.catalog = Catalog(peer, keyspace.catalog(peer), key, own=False, inspect=self._inspect)
        self.catalog.listen(self._take_note)
        self.fault: Close | None = None
        """Why what the peer writes is not taken: FORKED or REFUSED, until a person decides."""
        self.pulse = Pulse()
        """Fires when a head was seen, or one was not taken."""

    @property
    def near(self) -> bool:
        """Whether a head was seen so lately that another one may be on its way."""
        return self._heads > 0 and self.remaining > 0

    @property
    def shared(self) -> bool:
        """Whether the peer's agents are at work in our own etcd."""
        return self._heads > 1 and self.remaining > 0

    @property
    def age(self) -> float:
        """Seconds since the last head was seen."""
        return self._now() - self._seen_at

    @property
    def remaining(self) -> float:
        """Seconds for which what was seen still counts."""
        return self._settings.window_seconds - self.age

    def refuse(self, fault: Close) -> None:
        """Take nothing more, because of what a stream brought, until a person decides."""
        self.fault = self.fault or fault

    def forgive(self) -> None:
        """Look again at what was not taken: a person said so."""
        self.fault = None
        self.catalog.doubt()

    async def wait_shared(self) -> None:
        """Wait until the peer's agents are at work in our own etcd, or what they write there is not taken."""
        while not self.shared and self.fault is None:
            await self.pulse.wait()

    async def run(self) -> None:
        """Follow the peer's own records, for ever."""
        await self._replica.wait_listed()  # what is taken depends on the last head that was seen, perhaps long ago
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.catalog.follow(self._store))
            tasks.create_task(self._keep_last_seen())

    async def _keep_last_seen(self) -> None:
        """Store the last head that was seen, so that none before it is taken after a restart, nor by a stream.

        What does not succeed, because etcd does not take it or another agent or a link was faster, is looked at again
        after a pause: no other head may come that would be the occasion.
        """
        said = ""
        while True:
            while self._to_keep() is None:
                await self.pulse.wait()
            await asyncio.sleep(self._settings.keep_seconds)
            head, revision = self._to_keep(), self._replica.stored[2]
            if head is None:
                continue
            try:
                await self._store.txn(Txn({self._at_head: revision}, puts={self._at_head: head.encode()}))
                said = ""
            except (Unavailable, NoSpace) as error:
                if error.message != said:
                    log.warning("%s is stored later: %s", self._at_head, error.message)
                said = error.message

    def _to_keep(self) -> SealedHead | None:
        """Return the last head that was seen if it is newer than the stored one.

        A stored one that is of another key is left for a person to judge.
        """
        state = self.catalog.state
        if state is None:
            return None
        try:
            stored = self._stored_head()
        except Corrupt:
            return None
        return state.head if stored is None or state.head.pair > stored.pair else None

    def _stored_head(self) -> SealedHead | None:
        raw = self._replica.stored[0]
        return unseal_bytes(raw, self._key) if raw else None

    def _take_note(self, publication: Publication) -> None:
        head = publication.state.head
        if head.hash == self._last_seen:
            return  # listed again
        self._heads = self._heads + 1 if self.near else 1
        self._last_seen, self._seen_at = head.hash, self._now()
        self.pulse.fire()

    def _inspect(self, head: SealedHead, tree: Tree, changed: Collection[str]) -> str:
        """Say what is wrong with a state of the peer that its own agents have written; nothing: it is taken."""
        if self.fault is not None:
            return self.fault.reason
        reason, state = self._judge(head, tree, changed)
        if state is not None:
            self.fault = Close(reason, state)
            self.pulse.fire()
        return reason

    def _judge(self, head: SealedHead, tree: Tree, changed: Collection[str]) -> tuple[str, State | None]:
        if head.head.zone != self._peer or head.head.catalog != FEDERATION:
            return f"the head at {self.catalog.prefix} is not of zone {self._peer}'s catalog", State.REFUSED
        for one in self._seen_before():
            if head.pair == one.pair and head.hash != one.hash:
                return f"two different heads of zone {self._peer} are signed as {head.pair}", State.FORKED
            if head.pair < one.pair:
                return f"head {head.pair} at {self.catalog.prefix} is older than {one.pair} that was seen", None
        try:
            for key in changed:
                check_home(key, self._peer)
                if len(tree.get(key) or b"") > MAX_RECORD:
                    return f"zone {self._peer} has written a record over {MAX_RECORD} bytes", State.REFUSED
        except BadKey as error:
            return f"zone {self._peer} has written a record that is not its own: {error}", State.REFUSED
        return "", None

    def _seen_before(self) -> Iterator[SealedHead]:
        """Yield the head that is published and the one that is stored, by us or a link: none before them is taken."""
        if self.catalog.state is not None:
            yield self.catalog.state.head
        with suppress(Corrupt):  # of another key: nothing is known of this one
            stored = self._stored_head()
            if stored is not None:
                yield stored

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


class Newest(Mapping[int, Catalog]):
    """The catalog of each peer, from wherever this zone holds the newest of it: its replica, or the shared etcd."""

    def __init__(self, replicas: Mapping[int, Catalog], direct: Mapping[int, Direct]) -> None:
        self._replicas = replicas
        self._direct = direct

    def __getitem__(self, peer: int) -> Catalog:
        replica, direct = self._replicas[peer], self._direct[peer].catalog
        return direct if direct.pair > replica.pair else replica

    def __iter__(self) -> Iterator[int]:
        return iter(self._replicas)

    def __len__(self) -> int:
        return len(self._replicas)

    async def wait_for(self, peer: int, pair: Pair, timeout: float) -> None:
        """Wait until a head of at least `pair` of a peer is seen, by whichever way. Raises Timeout."""
        ways = [self._replicas[peer], self._direct[peer].catalog]
        waits = [asyncio.create_task(catalog.wait_for(pair, timeout)) for catalog in ways]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            next(iter(done)).result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
