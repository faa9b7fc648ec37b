"""What must hold of the raw revisions of every store, told by code of its own: hashlib, the messages, one verify call.

The oracle is shown each revision of each store, in order. It keeps every state that a home has committed, and so knows
what a replica may hold. It is told when a store is put back from a backup, and when there are two of one zone.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from cryptography.exceptions import InvalidSignature

from federation.head import Pair
from federation.keys import HEAD
from federation.store import Change, Revision
from fedmarket.pb.fedmarket.v1.head_pb2 import Head, SignedHead
from fedmarket.pb.fedmarket.v1.record_pb2 import Envelope, MarketRecord
from tests.support.federation import key_of

PREFIX = "/fedmarket/1/"
STRANGE_FIELD = 1000
"""Of a record, a field that only a newer version knows: it bears the name that the record was created with."""
Records = dict[str, bytes]


def root_of(records: Mapping[str, bytes]) -> bytes:
    """Return the Merkle root of some records."""
    buckets: defaultdict[int, list[str]] = defaultdict(list)
    for key in sorted(records):
        buckets[_sha(key.encode())[0]].append(key)
    digests = (_sha(b"".join(_leaf(key, records[key]) for key in buckets.get(index, ()))) for index in range(256))
    return _sha(b"".join(digests))


@cache
def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@cache
def _leaf(key: str, value: bytes) -> bytes:
    return _sha(key.encode() + b"\0" + value)


def hash_of(raw_head: bytes) -> bytes:
    """Return what "the hash of a head" means."""
    return _sha(SignedHead.FromString(raw_head).body)


def strange_field(text: str) -> bytes:
    """Return a field that no version knows yet, as it is encoded (number and length-delimited wire type, length)."""
    tag = STRANGE_FIELD << 3 | 2
    return bytes([tag & 0x7F | 0x80, tag >> 7, len(text)]) + text.encode()


def name_of(value: bytes) -> str:
    """Return the name that a record bears, whatever its kind."""
    return MarketRecord.FromString(Envelope.FromString(value).payload).name


@cache
def read_head(zone: int, raw: bytes) -> Head:
    """Return a head, having checked its signature and its zone."""
    signed = SignedHead.FromString(raw)
    try:
        key_of(zone).public.to_crypto().verify(signed.sig, b"fedmarket/head/1\0" + signed.body)
    except InvalidSignature:
        raise AssertionError(f"I3: a head was stored that zone {zone} has not signed") from None
    head = Head.FromString(signed.body)
    assert head.zone == zone, "I3: a head was stored that is of another zone"
    return head


@dataclass(eq=False)
class Home:
    """Everything that one zone has committed, whatever became of the store."""

    zone: int
    lines: list["Line"] = field(default_factory=list)
    """Its catalog in each of its stores: one, or two where the zone was cloned."""
    states: dict[bytes, Records] = field(default_factory=dict)
    """The records at each raw head."""
    changed: dict[bytes, frozenset[str]] = field(default_factory=dict)
    """What each commit has changed."""
    heads: defaultdict[Pair, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    epoch: int = 1
    """The greatest epoch."""
    given: dict[str, int] = field(default_factory=dict)
    """The greatest of next_ids, by kind."""
    uids: dict[str, bytes] = field(default_factory=dict)
    """What each key was last given to."""
    ids_by_name: dict[str, str] = field(default_factory=dict)
    """Each name that was ever committed, and the key that bore it."""
    so_until: dict[tuple[str, bytes], Pair] = field(default_factory=dict)
    """The last commit at which a record was so, of one that was changed since."""
    gone_until: dict[str, Pair] = field(default_factory=dict)
    """The last commit at which a record was not there, of one that was created since."""
    forked: bool = False
    """Whether two heads were signed with one pair: after a backup only, whose loss nobody could know."""

    def held_since(self, key: str, value: bytes, pair: Pair) -> bool:
        """Say whether the record was so at some commit from `pair` on."""
        now = any(line.records.get(key) == value for line in self.lines)
        return now or self.so_until.get((key, value), (-1, 0)) >= pair

    def lacked_since(self, key: str, pair: Pair) -> bool:
        """Say whether the record was not there at some commit from `pair` on."""
        now = any(key not in line.records for line in self.lines)
        return now or self.gone_until.get(key, (-1, 0)) >= pair

    def had(self, records: Records, pair: Pair) -> None:
        """Note that these were the records until `pair`."""
        for key, value in records.items():
            self.so_until[key, value] = max(self.so_until.get((key, value), pair), pair)

    def lacked(self, keys: Iterable[str], pair: Pair) -> None:
        """Note that there were no such records until `pair`."""
        for key in keys:
            self.gone_until[key] = max(self.gone_until.get(key, pair), pair)


@dataclass(eq=False)
class Line:
    """The catalog that a zone's agents write in one store."""

    home: Home
    records: Records = field(default_factory=dict)
    raw_head: bytes = b""
    pair: Pair = (0, 0)
    next_ids: dict[str, int] = field(default_factory=dict)
    past: set[bytes] = field(default_factory=set)
    """Every head that was here before, and the one that is."""
    created: set[str] = field(default_factory=set)
    """Every key that was given to something here."""
    known: Pair = (0, 0)
    """How far this zone knew that it had come, when its store was put back."""
    told: bool = False
    """Whether a person has said that an epoch is to begin."""

    @property
    def lost(self) -> bool:
        """Whether this zone has committed what is not here, and no epoch has begun here since."""
        others = () if len(self.past) == len(self.home.states) else self.home.states.keys() - self.past
        return any(read_head(self.home.zone, raw).epoch >= self.pair[0] for raw in others)

    @property
    def excused(self) -> bool:
        """Whether this zone cannot know that something is lost, or another store of it is at work.

        Until a peer shows what is lost, heads and ids may be given twice.
        """
        return len(self.home.lines) > 1 or (self.known <= self.pair and self.lost)

    def commit(self, changes: list[tuple[str, bytes | None]], head: Change | None) -> None:
        """Check one revision of catalog/<zone>/ and take it over."""
        assert head is not None, "I2: records changed without the head"
        assert head.value is not None, "I2: the head was deleted"
        now = read_head(self.home.zone, head.value)
        pair, given = (now.epoch, now.seq), {entry.kind: entry.next for entry in now.next_ids}
        self._check_head(now, given)
        for key, value in changes:
            self._change(key, value, given)
        assert now.root == root_of(self.records), "I2: the root is not that of the records"
        assert now.count == len(self.records), "I2: the count is not that of the records"
        self.raw_head, self.pair, self.next_ids = head.value, pair, given
        self._remember(frozenset(key for key, _ in changes))

    def _check_head(self, now: Head, given: Mapping[str, int]) -> None:
        assert now.prev == (hash_of(self.raw_head) if self.raw_head else b""), (
            "I2, I10: the head does not name the one before"
        )
        epoch, seq = self.pair if self.raw_head else (1, 0)
        known = self.next_ids
        if now.epoch != epoch:
            assert self.lost or self.told, "I2: an epoch began although nothing was lost"
            assert now.seq == 1, "I2: an epoch did not begin with 1"
            assert max(epoch, self.known[0]) < now.epoch <= self.home.epoch + 1, "I2: the epoch is not the next one"
            if now.epoch > self.home.epoch and not self.excused:
                known = self.home.given
            self.told &= self.lost
        else:
            assert now.seq == seq + 1, "I2, I10: the head did not move by one"
            assert self.known <= self.pair, "I8: what was put back went on in the old epoch"
        assert all(given.get(kind, 0) >= known[kind] for kind in known), "I8: next_ids decreased"

    def _change(self, key: str, value: bytes | None, next_ids: Mapping[str, int]) -> None:
        kind, record_id = key.split("/")
        assert int(record_id) // 1_000_000 == self.home.zone, "I1: the id of a record is not its home's"
        old = self.records.pop(key, None)
        if old is not None:
            self.home.had({key: old}, self.pair)
        if value is None:
            return
        uid = Envelope.FromString(value).uid
        if old is None:
            assert int(record_id) % 1_000_000 < next_ids.get(kind, 0), "I8: an id was given out that was not counted"
            assert key not in self.created, "I5, I8: an id was used again"
            assert key not in self.home.uids or self.excused, "I8: an id was used again"
            assert _strange(value), "I6: fields that this version does not know were lost"
            self.home.uids[key] = uid
            self.created.add(key)
            self.home.lacked([key], self.pair)
        else:
            assert Envelope.FromString(old).uid == uid, "I8: a record changed its uid"
            assert _strange(old) <= _strange(value), "I6: fields that this version does not know were lost"
        assert self.home.ids_by_name.setdefault(name_of(value), key) == key, "I9: a change was applied twice"
        self.records[key] = value

    def _remember(self, changed: frozenset[str]) -> None:
        home = self.home
        home.states[self.raw_head], home.changed[self.raw_head] = dict(self.records), changed
        self.past.add(self.raw_head)
        home.epoch = max(home.epoch, self.pair[0])
        home.given = {k: max(self.next_ids.get(k, 0), home.given.get(k, 0)) for k in self.next_ids | home.given}
        home.heads[self.pair].add(self.raw_head)
        home.forked |= len(home.heads[self.pair]) > 1

    def give_up(self) -> None:
        """Note that this is stored no longer."""
        self.home.lines.remove(self)
        self.home.had(self.records, self.pair)
        self.home.lacked(self.home.uids.keys() - self.records.keys(), self.pair)


def _strange(value: bytes) -> set[bytes]:
    """Return the fields of a record that only a newer version knows, as they were given to it by the test."""
    payload = Envelope.FromString(value).payload
    mark = strange_field("")[:2]
    return {payload[payload.index(mark) :]} if mark in payload else set()


@dataclass(eq=False)
class Replica:
    """What one zone has stored of another."""

    home: Home
    records: Records = field(default_factory=dict)
    raw_head: bytes | None = None
    pair: Pair = (0, 0)

    def store(self, changes: list[tuple[str, bytes | None]], head: Change | None, lost: Records) -> None:
        """Check one revision of zone/<me>/replica/<home>/ and take it over."""
        before = self.pair
        if head is not None:
            self._move_head(head)
        for key, value in changes:
            old = self.records.pop(key, None)
            if value is not None:
                assert self.home.held_since(key, value, before), f"I3: {key} was not so at home at {before} or later"
                self.records[key] = value
            elif old is not None:
                assert self.home.lacked_since(key, before), f"I5: {key} left the replica and not its home"
                kept = any(kept == old and name.endswith(f"/{key}") for name, kept in lost.items())
                assert self.pair > before or kept, f"I5: {key} was removed by a DIFF and not kept as lost"
        if self.pair > before:
            assert self.records == self.home.states[self.raw_head or b""], (
                f"I3, I7, I10: head {self.pair} was stored over other records"
            )

    def _move_head(self, head: Change) -> None:
        assert head.value is not None, "I4: the replica's head was deleted"
        if not head.value:
            assert not self.raw_head, "I4: a mark replaced a head"
            self.raw_head = b""
            return
        message = read_head(self.home.zone, head.value)
        pair = (message.epoch, message.seq)
        assert pair >= self.pair, "I4, I10: the replica's head went back"
        assert pair > self.pair or head.value == self.raw_head, "I4: another head of the same pair was stored"
        assert head.value in self.home.states, "I3: a head was stored that its home never committed"
        self.raw_head, self.pair = head.value, pair


class Site:
    """What one store holds: the catalog of its own zone, and copies of the others."""

    def __init__(self, line: Line, replicas: Iterable[Replica]) -> None:
        self.line = line
        self.replicas = {replica.home.zone: replica for replica in replicas}

    def copy(self) -> "Site":
        """Return the same, for a backup."""
        line, past, created = self.line, set(self.line.past), set(self.line.created)
        line = replace(line, records=dict(line.records), past=past, created=created)
        return Site(line, (replace(replica, records=dict(replica.records)) for replica in self.replicas.values()))

    def see(self, revision: Revision) -> None:
        """Check one revision of the store."""
        groups: defaultdict[str, dict[str, Change]] = defaultdict(dict)
        for change in revision.changes:
            prefix = self._prefix_of(change.key)
            groups[prefix][change.key.removeprefix(prefix)] = change
        for prefix, found in groups.items():
            head = found.pop(HEAD, None)
            lost = {key: change.value or b"" for key, change in found.items() if key.startswith("lost/")}
            changes = [(key, change.value) for key, change in found.items() if key not in lost]
            if prefix.startswith(f"{PREFIX}catalog/"):
                self.line.commit(changes, head)
            else:
                self.replicas[int(prefix.split("/")[-2])].store(changes, head, lost)

    def _prefix_of(self, key: str) -> str:
        zone = self.line.home.zone
        own = f"{PREFIX}catalog/{zone}/"
        replicas = (f"{PREFIX}zone/{zone}/replica/{home}/" for home in self.replicas)
        written = [prefix for prefix in (own, *replicas) if key.startswith(prefix)]
        assert written, f"I1: zone {zone} wrote {key}"
        return written[0]


class Oracle:
    """The zones, and what each store holds of them. Stores go by the names that the test gives them."""

    def __init__(self, zones: tuple[int, ...]) -> None:
        self.homes = {zone: Home(zone) for zone in zones}
        self.sites: dict[str, Site] = {}

    def add(self, store: str, zone: int) -> None:
        """Let there be an empty store."""
        others = (Replica(home) for other, home in self.homes.items() if other != zone)
        self._put(store, Site(Line(self.homes[zone]), others))

    def see(self, store: str, revision: Revision) -> None:
        """Check one revision of a store."""
        self.sites[store].see(revision)

    def put_back(self, store: str, backup: Site, reached: Pair) -> None:
        """Let a store hold what it held at the backup; its zone is known to have come to `reached`, at least."""
        old, new = self.sites[store].line, backup.copy()
        old.give_up()
        new.line.known = reached
        self._put(store, new)

    def clone(self, store: str, clone: str) -> None:
        """Let there be two of a store, neither of which knows of the other."""
        self._put(clone, self.sites[store].copy())

    def remove(self, clone: str, store: str) -> None:
        """Let a clone be gone for ever; a person says that the other is to begin an epoch."""
        self.sites.pop(clone).line.give_up()
        self.sites[store].line.told = True

    def _put(self, store: str, site: Site) -> None:
        site.line.home.lines.append(site.line)
        self.sites[store] = site
