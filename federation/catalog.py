"""One catalog as this agent knows it: fed by the store's watch, published only at commits.

Between commits the last good state stays. What is published is immutable (a head, a tree), so that whoever holds it by
reference sees one commit. The agent's own writer and sinks apply what they have written themselves, which gives
read-your-writes; the echo of the watch is then recognised and dropped.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from federation.ahead import Step, aside, step
from federation.commit import CatalogState
from federation.head import Pair, SealedHead, Verifier, unseal_bytes
from federation.index import Index
from federation.keys import HEAD, LOST, BadKey, parse_record_key
from federation.pulse import Pulse
from federation.store import Change, Compacted, Revision, Snapshot, Store, WentBack
from federation.tree import Tree
from fedmarket.errors import Corrupt, Timeout

RECENT_HEADS = 1000
"""How many published heads are remembered by their hash, for whoever lost the answer to a commit."""

log = logging.getLogger(__name__)


class Mismatch(Exception):
    """What the store delivered does not follow from what it delivered before: list again."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A state and how it came about."""

    state: CatalogState
    changed: frozenset[str]
    """Keys that differ from the state before."""
    consecutive: bool
    """Whether it is exactly the next commit after the state before."""
    traces: tuple[str, ...] = ()
    """W3C traceparents of the work that its changes are of, where this agent's writer made it."""


Inspection = Callable[[SealedHead, Tree, Collection[str]], str]
"""Given a state and the keys that differ from the one before, says why it is not to be published; or nothing."""


class Catalog:
    """The catalog of one home below one prefix of the store.

    `own` says that this zone writes it: then every revision must be exactly one commit. A replica may be a mix of two
    commits while a DIFF is being written: nothing is published until it matches a head again. `inspect` is asked about
    each state before it is published.
    """

    def __init__(self, home: int, prefix: str, key: Verifier, *, own: bool, inspect: Inspection | None = None) -> None:
        self.home = home
        self.prefix = prefix
        self.own = own
        self.index = Index()
        self.fault = ""
        """Why what is stored is not believed, and nothing may be written. Empty: nothing is wrong."""
        self.barred = ""
        """Why nothing may be written although what is stored is sound. Empty: nothing is wrong."""
        self.syncing = False
        """Whether the stored records match no head, because a DIFF is being written."""
        self.vanished: SealedHead | None = None
        """The head that was published here before the store went back behind it; only of an own catalog."""
        self.strays = 0
        """Revisions that the watch told of and that changed records without a head, which none of our agents do."""
        self.pulse = Pulse()
        """Fires whenever something was read from the store, published or not."""
        self._key = key
        self._inspect = inspect
        self._published: CatalogState | None = None
        self._shown = Tree.empty()
        self._stored = Tree.empty()
        self._stored_head = b""
        self._stored_head_revision = 0
        self._applied = 0
        self._direct: set[int] = set()
        self._recent: OrderedDict[Pair, bytes] = OrderedDict()
        self._prepared: Step | None = None
        self._announced: tuple[bytes, tuple[str, ...]] = (b"", ())
        self._listeners: list[Callable[[Publication], None]] = []
        self._watching: asyncio.Timeout | None = None

    @property
    def state(self) -> CatalogState | None:
        """The last commit whose records were all here; None before the first."""
        return self._published

    @property
    def pair(self) -> Pair:
        """(epoch, seq) of the published head; (0, 0) before the first."""
        return self._published.head.pair if self._published else (0, 0)

    @property
    def tree(self) -> Tree:
        """The records that readers see: those of `state`, or after a restart inside a DIFF the stored mix."""
        return self._shown

    @property
    def stored(self) -> tuple[bytes, Tree, int]:
        """The raw head, the records and the head's mod_revision as they are stored, published or not."""
        return self._stored_head, self._stored, self._stored_head_revision

    @property
    def base(self) -> CatalogState | None:
        """What the next commit is built on: what is stored, which is older than what is published if it vanished."""
        if self.vanished is None:
            return self._published
        return CatalogState(unseal_bytes(self._stored_head, self._key), self._stored, self._stored_head_revision)

    def hash_at(self, pair: Pair) -> bytes | None:
        """Return the hash of the head that was published at `pair`, if that was not long ago."""
        return self._recent.get(pair)

    def announce(self, head: bytes, traces: tuple[str, ...]) -> None:
        """Say what work the commit is of that the writer is about to make, by its head's hash.

        Before it is written: the watch may show it before etcd answers.
        """
        self._announced = (head, traces)

    def listen(self, listener: Callable[[Publication], None]) -> None:
        """Call `listener` at each publication."""
        self._listeners.append(listener)

    async def wait_for(self, pair: Pair, timeout: float) -> None:
        """Wait until a head of at least `pair` is published. Raises Timeout after `timeout` seconds."""
        await self._wait_until(
            lambda: self.pair >= pair,
            timeout,
            f"the catalog of zone {self.home} did not reach commit {pair[0]}/{pair[1]} here within {timeout:g} s: "
            "look at `fedmarket federation status`",
        )

    async def wait_listed(self) -> None:
        """Wait until what is stored was read."""
        while not self._applied:
            await self.pulse.wait()

    async def wait_applied(self, revision: int, timeout: float) -> None:
        """Wait until the store's `revision` was applied, published or not. Raises Timeout after `timeout` seconds."""
        await self._wait_until(lambda: self._applied >= revision, timeout, _behind(timeout))

    async def wait_echo(self, revision: int, timeout: float) -> None:
        """Wait until the store itself has shown what was applied direct as `revision`. Raises Timeout."""
        await self._wait_until(lambda: revision not in self._direct, timeout, _behind(timeout))

    async def wait_moved(self, revision: int, timeout: float) -> None:
        """Wait until the stored head is no longer the one of `revision`. Raises Timeout after `timeout` seconds."""
        await self._wait_until(lambda: self._stored_head_revision != revision, timeout, _behind(timeout))

    async def _wait_until(self, condition: Callable[[], bool], timeout: float, otherwise: str) -> None:
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    await self.pulse.wait()
        except TimeoutError as error:
            raise Timeout(otherwise) from error

    def doubt(self) -> None:
        """Have everything listed again: what is here may not be what is stored."""
        if self._watching is not None:
            self._watching.reschedule(0)

    async def follow(self, store: Store) -> None:
        """Keep this catalog in step with the store, for ever."""
        doubted = went_back = False
        while True:
            applied = self._applied
            snapshot = await store.snapshot(self.prefix)
            tree = await aside(partial(self._tree_of, snapshot), len(snapshot.items))
            await self.prepare(tree)
            went_back |= snapshot.revision < applied  # a listing is never older than what was applied before it
            if doubted and not went_back and snapshot.revision < self._applied:
                continue  # a write of our own overtook the listing, which must not settle the doubt
            self.reset(snapshot, tree, went_back=went_back)
            doubted = went_back = False
            try:
                async with asyncio.timeout(None) as self._watching:
                    async with aclosing(store.watch(self.prefix, snapshot.revision + 1)) as revisions:
                        async for revision in revisions:
                            self.apply(revision)
            except Compacted as reason:
                log.info("%s: %s: listing again", self.prefix, reason)
                went_back = isinstance(reason, WentBack)
            except Mismatch as reason:
                log.warning("%s: %s: listing again", self.prefix, reason)
                doubted = True
            except TimeoutError:
                doubted = True
            finally:
                self._watching = None

    async def prepare(self, tree: Tree) -> None:
        """Do ahead what the publication of `tree` takes, so that the loop does not stand still then."""
        self._prepared = await aside(partial(step, self._shown, tree), tree.count)

    def reset(self, snapshot: Snapshot, tree: Tree | None = None, *, went_back: bool = False) -> None:
        """Take over what a listing of the prefix found, and `tree`, if it was made of it already.

        `went_back` says that the store is older than it was. Without it a listing that a write of our own has
        overtaken is left out.
        """
        if went_back:
            log.error("%s: etcd was put back: revision %d, after %d", self.prefix, snapshot.revision, self._applied)
        if went_back or snapshot.revision >= self._applied:
            self._reset(snapshot, tree or self._tree_of(snapshot), went_back=went_back)
        self.pulse.fire()

    def _tree_of(self, snapshot: Snapshot) -> Tree:
        puts, _ = self._split(Change(item.key, item.value) for item in snapshot.items)
        return Tree.of({key: value for key, value in puts.items() if value is not None})

    def _reset(self, snapshot: Snapshot, tree: Tree, *, went_back: bool) -> None:
        head = next((item for item in snapshot.items if item.key == self.prefix + HEAD), None)
        self._stored_head, self._stored_head_revision = (head.value, head.mod_revision) if head else (b"", 0)
        self._applied = snapshot.revision
        self._direct.clear()
        self._stored = tree
        if not self._stored_head:
            if self.own and self._published is not None:
                self._blame(
                    f"etcd has lost all that was at {self.prefix}: stop the agent, then put etcd's data back, or see "
                    "`fedmarket zone restore --help`"
                )
            else:
                self._show_mix()
            return
        try:
            sealed = unseal_bytes(self._stored_head, self._key)
        except Corrupt as error:
            self._blame(self._distrust(error))
            if self.own:
                self._show_mix()
            return
        if not sealed.describes(self._stored):
            if self.own:
                self._blame(
                    f"the records stored at {self.prefix} do not match their signed head: "
                    "changes are refused until `fedmarket zone repair`"
                )
            self._show_mix()
        else:
            self._take(sealed, consecutive=False, went_back=went_back)

    def apply(self, revision: Revision, *, direct: bool = False) -> None:
        """Apply one complete revision; `direct` when this agent wrote it itself and has not seen its echo yet.

        Raises Mismatch, unless direct: whoever wrote it has nothing to do about it, and its echo will raise.
        """
        try:
            self._apply(revision, direct=direct)
        except Mismatch:
            if not direct:
                raise
            self._direct.discard(revision.revision)  # so that its echo is not dropped: it leads to a listing
        self.pulse.fire()

    def _apply(self, revision: Revision, *, direct: bool) -> None:
        if revision.revision <= self._applied:
            if direct or revision.revision in self._direct:
                self._direct.discard(revision.revision)
                return
            raise Mismatch(f"revision {revision.revision} came after {self._applied}")
        changes, head = self._split(revision.changes)
        self._applied = revision.revision
        if direct:
            self._direct.add(revision.revision)
        if not changes and head is None:
            return
        if head is None:
            self.strays += 1
            log.warning("%s: somebody changed %s without a head", self.prefix, ", ".join(sorted(changes)))
        if self.own and head is None:
            raise Mismatch(f"revision {revision.revision} changed records without a head")
        puts = {key: value for key, value in changes.items() if value is not None}
        self._stored = self._stored.apply(puts, [key for key, value in changes.items() if value is None])
        if head is None:
            self.syncing = True
            return
        self._stored_head = head.value or b""
        self._stored_head_revision = 0 if head.value is None else revision.revision
        self._take_head()

    def _take_head(self) -> None:
        if not self._stored_head:
            if self.own:
                raise Mismatch("the head was deleted")
            self.syncing = True
            return
        try:
            sealed = unseal_bytes(self._stored_head, self._key)
        except Corrupt as error:
            raise Mismatch(str(error)) from error
        if not sealed.describes(self._stored):
            if self.own:
                raise Mismatch(f"the records do not match head {sealed.pair}")
            self.syncing = True
            return
        before = self._published.head if self._published else None
        consecutive = before is not None and follows(before, sealed)
        if self.own and before is not None and not consecutive and sealed.head.epoch <= before.head.epoch:
            raise Mismatch(f"head {sealed.pair} does not follow {before.pair}")
        self._take(sealed, consecutive=consecutive)

    def _take(self, head: SealedHead, *, consecutive: bool, went_back: bool = False) -> None:
        """Publish what is stored under `head`, unless something speaks against it."""
        ready = self._ready()
        if self._inspect is not None and (objection := self._inspect(head, self._stored, ready.changed)):
            self._blame(objection)
        elif self._published is not None and self._contradicts(self._published.head, head, went_back=went_back):
            self._fall_behind(self._published.head, head)
        else:
            self._publish(head, ready, consecutive=consecutive)

    def _contradicts(self, before: SealedHead, now: SealedHead, *, went_back: bool = False) -> bool:
        """Say whether `now` cannot come after `before`, which was published: readers never go back.

        An own catalog in a store that was put back goes on in a new epoch only: until then even a greater seq is of
        another line of commits.
        """
        if self.own and (self.vanished or went_back) and now.head.epoch == before.head.epoch:
            return now.hash != before.hash
        return now.pair < before.pair or (now.pair == before.pair and now.hash != before.hash)

    def _fall_behind(self, before: SealedHead, now: SealedHead) -> None:
        """Keep what is published, because the store was put back: to `now`, behind `before`."""
        self.syncing, self.fault = False, ""
        if self.own and self.vanished is None:
            self.vanished = before
            log.error("%s: etcd went back from head %s to %s", self.prefix, before.pair, now.pair)

    def _distrust(self, error: Corrupt) -> str:
        remedy = "changes are refused until `fedmarket zone repair`" if self.own else "it is not read"
        return f"what is stored at {self.prefix} cannot be trusted ({error.message}): {remedy}"

    def _blame(self, fault: str) -> None:
        if fault != self.fault:
            log.error("%s", fault)
        self.fault = fault

    def _ready(self) -> Step:
        """Return how what is stored differs from what is shown; what was prepared, if it was."""
        ready, self._prepared = self._prepared, None
        if ready is not None and ready.before is self._shown and ready.after.root == self._stored.root:
            return ready
        return Step(self._shown, self._stored, frozenset(self._stored.changed_keys(self._shown)), None)

    def _show(self, ready: Step) -> None:
        """Let readers see what is stored."""
        self._shown = self._stored
        if ready.index is None:
            self.index.update(self._shown, ready.changed)
        else:
            self.index = ready.index

    def _publish(self, head: SealedHead, ready: Step, *, consecutive: bool) -> None:
        self._show(ready)
        self._published = CatalogState(head, self._stored, self._stored_head_revision)
        self.syncing, self.fault, self.vanished = False, "", None
        self._recent[head.pair] = head.hash
        while len(self._recent) > RECENT_HEADS:
            self._recent.popitem(last=False)
        traces = self._announced[1] if self._announced[0] == head.hash else ()
        publication = Publication(self._published, ready.changed, consecutive, traces)
        for listener in self._listeners:
            listener(publication)

    def _show_mix(self) -> None:
        self.syncing = bool(self._stored.count or self._stored_head)
        if self._published is None:
            self._show(self._ready())

    def _split(self, changes: Iterable[Change]) -> tuple[dict[str, bytes | None], Change | None]:
        """Return the records among `changes`, and the change of the head, if it is among them."""
        records: dict[str, bytes | None] = {}
        head: Change | None = None
        for change in changes:
            key = change.key.removeprefix(self.prefix)
            if key == HEAD:
                head = change
            elif not key.startswith(LOST + "/"):
                try:
                    parse_record_key(key)
                except BadKey:
                    log.warning("ignoring %s: it is not a record", change.key)
                    continue
                records[key] = change.value
        return records, head


def _behind(seconds: float) -> str:
    return f"etcd's watch is more than {seconds:g} s behind: try again when etcd is less busy"


def follows(before: SealedHead, after: SealedHead) -> bool:
    """Say whether `after` is exactly the next commit of the same epoch."""
    return after.pair == (before.head.epoch, before.head.seq + 1) and after.head.prev == before.hash
