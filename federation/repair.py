"""Repair of a catalog that this zone writes, whose stored records are not those of their signed head.

Somebody wrote into etcd beside the agents, or a disk lied. Until a person asks for repair, changes are refused. The
good state is then what this agent last showed, or what a peer holds, if its head is the stored one; or an older copy
and what was committed since, which is stored: the root proves which is which. If the stored head is gone, cannot be
verified, or is behind what is known, the good state is the newest that is known, and a new epoch begins. Only a person
can decide to sign what is stored instead.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from itertools import chain, combinations, islice

from google.protobuf.message import DecodeError

from federation.catalog import Catalog
from federation.commit import MAX_RECORD, Changes, Origin, seal_tree
from federation.draft import LAST_LOCAL, ZONE_LOCAL_KINDS
from federation.epoch import seal_epoch
from federation.head import FEDERATION, Head, SealedHead, unseal_bytes
from federation.keys import FIRST_PRIVATE, IDS_PER_ZONE, ZONE_KIND, home_of, parse_record_key
from federation.recall import Copy
from federation.records import KINDS, decode
from federation.store import Store
from federation.stored import Stored, read_stored, rewrite
from federation.tree import Tree
from fedmarket.errors import Corrupt, Refused, Timeout
from fedmarket.pb.fedmarket.v1.record_pb2 import Envelope
from fedmarket.threads import in_thread

log = logging.getLogger(__name__)

SHOWN_KEYS = 10
"""Of the records that a refusal names."""
MIXES = 10_000
"""How many mixes of what is stored and an older copy are tried: about a second's work of one processor."""


class Outcome(Enum):
    """How a repair ended."""

    SOUND = "sound"
    """The records were those of their head."""
    RESTORED = "restored"
    """A good copy was written back."""
    ACCEPTED = "accepted"
    """What was stored was signed."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did."""

    outcome: Outcome
    source: str
    """Whose copy was written back; empty: no copy was needed."""
    written: tuple[str, ...]
    """Records that were put back."""
    removed: tuple[str, ...]
    head: SealedHead
    """As it is now."""


@dataclass(frozen=True, slots=True)
class Held:
    """A copy of the catalog, and who holds it."""

    holder: str
    copy: Copy


@dataclass(frozen=True, slots=True)
class Answers:
    """What those who follow this catalog answered when they were asked for their copies."""

    held: Sequence[Held] = ()
    failures: Sequence[str] = ()
    """One clause for each that gave none."""


@dataclass(frozen=True, slots=True)
class _Good:
    """A state to write, and under which head."""

    tree: Tree
    head: SealedHead
    outcome: Outcome
    source: str = ""


class Repairer:
    """Repairs one catalog. One repair at a time."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        origin: Origin,
        ask: Callable[[], Awaitable[Answers]],
        catch_up_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._origin = origin
        self._ask = ask
        self._catch_up = catch_up_seconds
        self._clock = clock
        self._alone = asyncio.Lock()

    async def repair(self, *, accept: bool) -> Repaired:
        """Make the stored records those of a signed head; `accept`: by signing them as they are.

        Raises Refused if there is no good copy, or another agent of the zone wrote meanwhile.
        """
        async with self._alone:
            stored = await read_stored(self._store, self._origin.prefix)
            head = self._believed(stored)
            if head is not None and head.describes(stored.tree) and not stored.newer:
                await self._look_again()
                return Repaired(Outcome.SOUND, "", (), (), head)
            good = await self._good(stored, head, accept=accept)
            changes = await rewrite(self._store, self._origin, stored, good.tree, good.head, {})
            await self._catalog.wait_for(good.head.pair, self._catch_up)
            repaired = _repaired(good, changes)
            log.warning(
                "%s: %s in commit %s: %d records put back, %d removed",
                self._origin.prefix,
                repaired.outcome.value,
                good.head.pair,
                len(repaired.written),
                len(repaired.removed),
            )
            return repaired

    def _believed(self, stored: Stored) -> SealedHead | None:
        """Return the stored head, if there is one that we have signed."""
        if stored.head is None:
            return None
        try:
            return unseal_bytes(stored.head.value, self._origin.key.public)
        except Corrupt:
            return None

    async def _look_again(self) -> None:
        """Have the catalog listed anew, if it does not believe what is stored."""
        if not self._catalog.fault:
            return
        self._catalog.doubt()
        try:
            async with asyncio.timeout(self._catch_up):
                while self._catalog.fault:
                    await self._catalog.pulse.wait()
        except TimeoutError as error:
            raise Timeout(f"etcd did not list {self._origin.prefix} within {self._catch_up:g} s: try again") from error

    async def _good(self, stored: Stored, head: SealedHead | None, *, accept: bool) -> _Good:
        """Choose what to write over what is stored."""
        if head is not None and head.describes(stored.tree):  # written beside the agents, but with the same bytes
            return _Good(stored.tree, self._next(head, stored.tree, head.head.next_ids), Outcome.SOUND)
        answers = await self._ask()
        copies = [*self._shown(), *answers.held]
        newer = [held for held in copies if head is None or held.copy.head.pair > head.pair]
        if accept:
            return self._accepted(stored, head, newer)
        if newer:
            return self._restored(newer, head)
        if head is not None:
            for held in sorted(copies, key=lambda held: held.copy.head.pair, reverse=True):
                tree = await in_thread(partial(signed_mix, head, stored.tree, held.copy.tree))
                if tree is not None:
                    return _Good(tree, self._next(head, tree, head.head.next_ids), Outcome.RESTORED, held.holder)
        raise self._no_good_copy(stored, head, copies, answers.failures)

    def _shown(self) -> list[Held]:
        """Return what this agent last saw whole."""
        state = self._catalog.state
        return [Held("the memory of this agent", Copy(state.head, state.tree))] if state else []

    def _restored(self, newer: Sequence[Held], head: SealedHead | None) -> _Good:
        """Go on from the newest copy, in a new epoch: commits after it may be known to somebody else."""
        newest = max(newer, key=lambda held: held.copy.head.pair)
        known = [held.copy.head.head for held in newer] + ([head.head] if head else [])
        copy = newest.copy
        sealed = seal_epoch(self._origin, copy.head, copy.tree, known, self._time_ms())
        return _Good(copy.tree, sealed, Outcome.RESTORED, newest.holder)

    def _accepted(self, stored: Stored, head: SealedHead | None, newer: Sequence[Held]) -> _Good:
        """Take what is stored, as far as it can be records of this catalog."""
        records = {key: value for key, value in stored.tree.items() if acceptable(self._origin, key, value)}
        tree = Tree.of(records)
        base = max((held.copy.head for held in newer), key=lambda one: one.pair, default=head)
        if base is None:
            raise Refused(
                f"no head of {self._origin.prefix} is known, so a commit over what is stored could be one that was "
                "signed before: stop the agent, and see `fedmarket zone restore --help`"
            )
        reached = _beyond(base.head, records)
        if base is head:
            return _Good(tree, self._next(head, tree, reached.next_ids), Outcome.ACCEPTED)
        known = [reached, *(held.copy.head.head for held in newer)]
        return _Good(tree, seal_epoch(self._origin, base, tree, known, self._time_ms()), Outcome.ACCEPTED)

    def _next(self, head: SealedHead, tree: Tree, next_ids: Mapping[str, int]) -> SealedHead:
        """Sign the commit after `head`."""
        epoch, seq = head.pair
        return seal_tree(self._origin, (epoch, seq + 1), head, tree, next_ids, self._time_ms())

    def _no_good_copy(
        self, stored: Stored, head: SealedHead | None, copies: Sequence[Held], failures: Iterable[str]
    ) -> Refused:
        wanted = f"commit {head.pair[0]}/{head.pair[1]}" if head else "the last commit"
        others = [f"{held.holder} has {held.copy.head.pair[0]}/{held.copy.head.pair[1]}" for held in copies]
        tried = "; ".join([*others, *failures]) or "nobody else was asked"
        if stored.newer:
            shown = ", ".join(stored.newer[:SHOWN_KEYS]) + (", ..." if len(stored.newer) > SHOWN_KEYS else "")
            differ = f"written since it are {shown}, what was deleted since cannot be told"
        else:
            differ = "which records differ cannot be told"
        return Refused(
            f"nobody holds a good copy of {self._origin.prefix} as of {wanted} ({tried}), and {differ}: put back a "
            "snapshot of etcd, or sign what is stored with `fedmarket zone repair --accept`"
        )

    def _time_ms(self) -> int:
        return int(self._clock() * 1000)


def signed_mix(head: SealedHead, stored: Tree, copy: Tree) -> Tree | None:
    """Return the records that `head` was signed over, if they are those of `copy`, or a mix of it and what is stored.

    A copy that is some commits behind lacks what these changed, and that is stored. What was damaged are the fewest
    records, so those mixes are tried first that take fewest from the copy. Hashes a lot.
    """
    if head.describes(copy):
        return copy
    differing = sorted(stored.changed_keys(copy))
    choices = chain.from_iterable(combinations(differing, n) for n in range(1, len(differing) + 1))
    for chosen in islice(choices, MIXES):
        taken = {key: copy.get(key) for key in chosen}
        puts = {key: value for key, value in taken.items() if value is not None}
        mix = stored.apply(puts, taken.keys() - puts.keys())
        if head.describes(mix):
            return mix
    return None


def acceptable(origin: Origin, key: str, value: bytes) -> bool:
    """Say whether a record that was found can be one of this catalog: by its id, its size, and that it can be read."""
    kind, record_id = parse_record_key(key)
    federated = origin.catalog == FEDERATION
    if kind in ZONE_LOCAL_KINDS or (kind not in KINDS and not federated):  # a new kind may count plainly too
        belongs = not federated and record_id <= LAST_LOCAL
    elif kind == ZONE_KIND:
        belongs = federated and record_id == origin.zone
    else:
        belongs = home_of(record_id) == origin.zone and (record_id % IDS_PER_ZONE < FIRST_PRIVATE) == federated
    return belongs and len(value) <= MAX_RECORD and _readable(kind, value)


def _readable(kind: str, value: bytes) -> bool:
    try:
        if kind in KINDS:
            decode(KINDS[kind], value)
        else:
            Envelope.FromString(value)
    except (Corrupt, DecodeError):
        return False
    return True


def _beyond(head: Head, keys: Iterable[str]) -> Head:
    """Return the head with ids to be given next that are beyond every record, also one that nobody gave out."""
    next_ids = dict(head.next_ids)
    for key in keys:
        kind, record_id = parse_record_key(key)
        if kind != ZONE_KIND:
            plain = kind in ZONE_LOCAL_KINDS or home_of(record_id) != head.zone
            n = record_id if plain else record_id % IDS_PER_ZONE
            next_ids[kind] = max(next_ids.get(kind, 0), n + 1)
    return replace(head, next_ids=next_ids)


def _repaired(good: _Good, changes: Changes) -> Repaired:
    written = tuple(key for key, value in changes.items() if value is not None)
    removed = tuple(key for key, value in changes.items() if value is None)
    return Repaired(good.outcome, good.source, written, removed, good.head)
