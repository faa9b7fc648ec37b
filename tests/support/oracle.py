"""What must hold of the raw revisions of every store, told by code of its own: hashlib, the messages, one verify call.

The oracle is shown each revision of each zone's store, in order. It keeps every state that a home has committed, and
so knows what a replica may hold.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from federation.head import Pair
from federation.keys import HEAD
from federation.store import Change, Revision
from fedmarket.pb.fedmarket.v1.head_pb2 import Head, SignedHead
from fedmarket.pb.fedmarket.v1.record_pb2 import Envelope, MarketRecord
from tests.support.federation import key_of

PREFIX = "/fedmarket/1/"
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


def name_of(value: bytes) -> str:
    """Return the name of the market that a record is."""
    return MarketRecord.FromString(Envelope.FromString(value).payload).name


@cache
def read_head(zone: int, raw: bytes) -> Head:
    """Return a head, having checked its signature and its zone."""
    signed = SignedHead.FromString(raw)
    key_of(zone).public.to_crypto().verify(signed.sig, b"fedmarket/head/1\0" + signed.body)
    head = Head.FromString(signed.body)
    assert head.zone == zone
    return head


@dataclass
class Home:
    """Everything that one zone has committed."""

    zone: int
    records: Records = field(default_factory=dict)
    raw_head: bytes = b""
    pair: Pair = (0, 0)
    states: dict[Pair, Records] = field(default_factory=dict)
    heads: dict[Pair, bytes] = field(default_factory=dict)
    values: defaultdict[tuple[str, bytes], Pair] = field(default_factory=lambda: defaultdict(lambda: (0, 0)))
    """A record and the last commit at which it was so; only while it is so no longer."""
    created: dict[str, Pair] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    ids_by_name: dict[str, str] = field(default_factory=dict)
    """Each name that was ever committed, and the key that bore it."""

    def commit(self, changes: list[tuple[str, bytes | None]], head: Change | None) -> None:
        """Check one revision of catalog/<zone>/ and take it over."""
        assert head is not None, "I2: records changed without the head"
        assert head.value is not None, "I2: the head was deleted"
        now = read_head(self.zone, head.value)
        before = read_head(self.zone, self.raw_head) if self.raw_head else Head(epoch=1)
        assert (now.epoch, now.seq) == (before.epoch, before.seq + 1), "I2: the head did not move by one"
        prev = _sha(SignedHead.FromString(self.raw_head).body) if self.raw_head else b""
        assert now.prev == prev, "I2: the head does not name the one before"
        given, known = ({entry.kind: entry.next for entry in h.next_ids} for h in (now, before))
        assert all(given.get(kind, 0) >= known[kind] for kind in known), "I8: next_ids decreased"
        for key, value in changes:
            self._change(key, value, (now.epoch, now.seq), given)
        assert now.root == root_of(self.records), "I2: the root is not that of the records"
        assert now.count == len(self.records), "I2: the count is not that of the records"
        self.raw_head, self.pair = head.value, (now.epoch, now.seq)
        self.states[self.pair], self.heads[self.pair] = dict(self.records), head.value

    def _change(self, key: str, value: bytes | None, pair: Pair, next_ids: Mapping[str, int]) -> None:
        kind, record_id = key.split("/")
        assert int(record_id) // 1_000_000 == self.zone, "I1: the id of a record is not its home's"
        assert key not in self.deleted, "I8: an id was used again"
        old = self.records.pop(key, None)
        if old is not None:
            self.values[key, old] = (pair[0], pair[1] - 1)
        if value is None:
            self.deleted.add(key)
            return
        assert int(record_id) % 1_000_000 < next_ids[kind], "I8: an id was given out that was not counted"
        assert old is None or _uid(old) == _uid(value), "I8: a record changed its uid"
        self.created.setdefault(key, pair)
        name = name_of(value)
        assert self.ids_by_name.setdefault(name, key) == key, "I9: a change was applied twice"
        self.records[key] = value
        self.values.pop((key, value), None)

    def held_since(self, key: str, value: bytes, pair: Pair) -> bool:
        """Say whether the record was so at some commit from `pair` on."""
        return self.records.get(key) == value or ((key, value) in self.values and self.values[key, value] >= pair)

    def lacked_since(self, key: str, pair: Pair) -> bool:
        """Say whether the record was not there at some commit from `pair` on."""
        return key in self.deleted or self.created[key] > pair


def _uid(value: bytes) -> bytes:
    return Envelope.FromString(value).uid


@dataclass
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
                assert self.home.held_since(key, value, before), (
                    f"I3, I5: {key} was not so at home at {before} or later"
                )
                self.records[key] = value
            elif old is not None:
                assert self.home.lacked_since(key, before), f"I5: {key} left the replica and not its home"
                kept = lost.get(f"lost/{before[0] or 1}/{key}")
                assert self.pair > before or kept == old, f"I5: {key} was removed by a DIFF and not kept as lost"
        if self.pair > before:
            assert self.records == self.home.states[self.pair], f"I7: head {self.pair} was stored over other records"

    def _move_head(self, head: Change) -> None:
        assert head.value is not None, "I4: the replica's head was deleted"
        if not head.value:
            assert not self.raw_head, "I4: a mark replaced a head"
            self.raw_head = b""
            return
        message = read_head(self.home.zone, head.value)
        pair = (message.epoch, message.seq)
        assert pair >= self.pair, "I4: the replica's head went back"
        assert self.home.heads.get(pair) == head.value, "I3: a head was stored that its home never committed"
        self.raw_head, self.pair = head.value, pair


class Oracle:
    """The homes and replicas of some zones that all follow each other."""

    def __init__(self, zones: tuple[int, ...]) -> None:
        self.homes = {zone: Home(zone) for zone in zones}
        self.replicas = {(me, z): Replica(self.homes[z]) for me in zones for z in zones if z != me}

    def see(self, zone: int, revision: Revision) -> None:
        """Check one revision of the store of `zone`."""
        groups: defaultdict[str, dict[str, Change]] = defaultdict(dict)
        for change in revision.changes:
            prefix = self._prefix_of(zone, change.key)
            groups[prefix][change.key.removeprefix(prefix)] = change
        for prefix, found in groups.items():
            head = found.pop(HEAD, None)
            lost = {key: change.value or b"" for key, change in found.items() if key.startswith("lost/")}
            changes = [(key, change.value) for key, change in found.items() if key not in lost]
            if prefix.startswith(f"{PREFIX}catalog/"):
                self.homes[zone].commit(changes, head)
            else:
                self.replicas[zone, int(prefix.split("/")[-2])].store(changes, head, lost)

    def _prefix_of(self, zone: int, key: str) -> str:
        own = f"{PREFIX}catalog/{zone}/"
        replicas = (f"{PREFIX}zone/{zone}/replica/{home}/" for home in self.homes if home != zone)
        written = [prefix for prefix in (own, *replicas) if key.startswith(prefix)]
        assert written, f"I1: zone {zone} wrote {key}"
        return written[0]
