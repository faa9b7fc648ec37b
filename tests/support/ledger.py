"""What the users of a zone were told, and what every look at the catalogs must therefore show.

Shared by threads without a lock: each step is one operation on a built-in, or a copy of one, which no thread sees half.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.trust.keys import PublicKey
from fedmarket.pb.fedmarket.v1.head_pb2 import Head, SignedHead
from fedmarket.pb.fedmarket.v1.record_pb2 import AppRecord, Envelope, MarketRecord
from tests.support.oracle import Records, root_of
from tests.support.zones import Zone


@dataclass
class Ledger:
    """The answers of one zone. Things are called by their record keys, "app/123"."""

    promised: dict[str, str] = field(default_factory=dict)
    """Key to name: the create was acknowledged."""
    ready: set[str] = field(default_factory=set)
    """Apps whose upload was said to be done."""
    doomed: set[str] = field(default_factory=set)
    """A delete was sent."""
    gone: set[str] = field(default_factory=set)
    """The delete was acknowledged."""
    tried: set[str] = field(default_factory=set)
    """Names for which a create was sent."""
    refused: set[str] = field(default_factory=set)
    """Names for which no create was ever answered otherwise than by a refusal."""

    @property
    def acknowledged(self) -> int:
        """Creates and deletes of apps."""
        return sum(key.startswith("app/") for key in [*dict(self.promised), *set(self.gone)])

    def moment(self, kind: str = "") -> "Promises":
        """Return what was acknowledged until now, of one kind."""
        promised, gone = dict(self.promised), set(self.gone)
        return Promises(
            {key: name for key, name in promised.items() if key.startswith(kind)},
            {key for key in gone if key.startswith(kind)},
        )


@dataclass(frozen=True)
class Promises:
    """What was acknowledged before a look."""

    promised: dict[str, str]
    gone: set[str]

    def check(self, shown: Mapping[str, str], doomed: set[str]) -> None:
        """Check keys and names that a look at the home has shown. `doomed` is of after the look."""
        assert not self.gone & shown.keys(), "an acknowledged delete is back"
        lost = {key for key, name in self.promised.items() if shown.get(key) != name} - doomed
        assert not lost, f"acknowledged creates are lost: {sorted(lost)[:5]}"


@dataclass(frozen=True)
class Copy:
    """A catalog as etcd holds it at one revision: at its home, or as a replica."""

    head: Head
    records: Records

    @property
    def uids(self) -> dict[str, str]:
        return {key: Envelope.FromString(value).uid.hex() for key, value in self.records.items()}

    @property
    def names(self) -> dict[str, str]:
        """Return the names of markets and apps by key."""
        return {key: _name_of(key, value) for key, value in self.records.items() if key.startswith(("app/", "market/"))}

    @property
    def root(self) -> str:
        """Return the root of the records, whatever the head says."""
        return root_of(self.records).hex()

    def check(self) -> None:
        """Check that the head describes the records."""
        assert (self.head.root.hex(), self.head.count) == (self.root, len(self.records)), "the head is not of these"


def _name_of(key: str, value: bytes) -> str:
    payload = Envelope.FromString(value).payload
    record = AppRecord.FromString(payload) if key.startswith("app/") else MarketRecord.FromString(payload)
    return record.name


def read_copy(holder: Zone, home: Zone) -> Copy | None:
    """Read the catalog of `home` in the etcd of `holder`; None before its first head. Raises grpc.RpcError."""
    below = f"catalog/{home.id}/" if holder is home else f"zone/{holder.id}/replica/{home.id}/"
    begin = len(f"/fedmarket/1/{below}")
    found = {kv.key.decode()[begin:]: kv.value for kv in holder.stored(below)}
    raw = found.pop("head", b"")
    if not raw:
        return None
    signed = SignedHead.FromString(raw)
    assert PublicKey.parse(home.key).verify(signed.sig, b"fedmarket/head/1\0" + signed.body), "a head is forged"
    return Copy(Head.FromString(signed.body), {key: v for key, v in found.items() if not key.startswith("lost/")})


class Witness:
    """Remembers what it saw of a home in one place: nothing goes back there."""

    def __init__(self, uids: dict[str, str]) -> None:
        self._uids = uids
        """Of every key that any witness has ever seen."""
        self._present: set[str] = set()
        self._vanished: set[str] = set()
        self._pair = (0, 0)

    def see(self, copy: Copy) -> None:
        """Take note of a catalog: no epoch begins where nothing was put back."""
        pair = (copy.head.epoch, copy.head.seq)
        assert pair >= self._pair, "the head went back"
        assert copy.head.epoch == 1, "a new epoch began, and nothing was lost"
        self._pair = pair
        self.see_records(copy.uids)

    def see_records(self, uids: Mapping[str, str]) -> None:
        """Take note of the records that are there now."""
        back = self._vanished & uids.keys()
        assert not back, f"what was deleted came back: {sorted(back)[:5]}"
        self._vanished |= self._present - uids.keys()
        self._present = set(uids)
        for key, uid in uids.items():
            assert self._uids.setdefault(key, uid) == uid, f"the id of {key} was used for two things"
