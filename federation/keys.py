"""Where everything lies in a zone's etcd, and the grammar of record keys. The picture is in docs/formats.md."""

import re
from dataclasses import dataclass

from fedmarket.errors import BadInput

MAX_ZONE = 2146
"""Greatest zone id: OpenNebula's API carries ids as int32."""
IDS_PER_ZONE = 1_000_000
FIRST_FEDERATED = 100
"""n of a federated record starts here; 0-99 are built-ins in every zone."""
FIRST_PRIVATE = 500_000
"""n of a market or app in the private catalog starts here."""

HEAD = "head"
LOST = "lost"
ZONE_KIND = "zone"

_RECORD_KEY = re.compile(r"(?P<kind>[a-z][a-z0-9-]*)/(?P<id>0|[1-9][0-9]{0,9})", re.ASCII)


class BadKey(ValueError):
    """Not a record key, or not one of the home it is said to be of."""


def record_key(kind: str, record_id: int) -> str:
    """Return `<kind>/<id>`, as records are named in trees and on streams."""
    return f"{kind}/{record_id}"


def parse_record_key(key: str) -> tuple[str, int]:
    """Split `<kind>/<id>`. Raises BadKey for anything outside the grammar."""
    match = _RECORD_KEY.fullmatch(key)
    if match is None or match["kind"] in {HEAD, LOST}:
        raise BadKey(f"{key[:80]!r} is not a record key")
    return match["kind"], int(match["id"])


def check_home(key: str, home: int) -> None:
    """Require that the record named `key` can be one of the federated catalog of `home`. Raises BadKey."""
    kind, record_id = parse_record_key(key)
    if (record_id if kind == ZONE_KIND else home_of(record_id)) != home:
        raise BadKey(f"{key!r} is outside the range of zone {home}")


def home_of(record_id: int) -> int:
    """Return the zone that a federated id belongs to."""
    return record_id // IDS_PER_ZONE


def check_zone_id(zone: int) -> int:
    """Return `zone`, or raise BadInput if it is no zone id."""
    if not 0 <= zone <= MAX_ZONE:
        raise BadInput(f"zone id {zone} is out of range: choose one from 0 to {MAX_ZONE}")
    return zone


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The keys of one zone below the configured prefix, which ends in a slash."""

    prefix: str
    zone: int

    def catalog(self, home: int) -> str:
        """Return the prefix of the federated catalog that `home` writes."""
        return f"{self.prefix}catalog/{home}/"

    @property
    def own(self) -> str:
        """The prefix of this zone's federated catalog."""
        return self.catalog(self.zone)

    @property
    def mine(self) -> str:
        """The prefix below which only this zone's agents read and write."""
        return f"{self.prefix}zone/{self.zone}/"

    @property
    def private(self) -> str:
        """The prefix of this zone's private catalog."""
        return f"{self.mine}private/"

    def replica(self, home: int) -> str:
        """Return the prefix of this zone's copy of the catalog of `home`."""
        return f"{self.mine}replica/{home}/"

    def duty(self, name: str) -> str:
        """Return the key that an agent holds while it does the duty `name`; a running job is one too."""
        return f"{self.mine}duty/{name}"

    @property
    def requests(self) -> str:
        """The prefix of what is noted of requests."""
        return f"{self.mine}request/"

    def request(self, zone: int, request_id: str) -> str:
        """Return the key that tells what became of a change that was asked for in `zone`."""
        return f"{self.requests}{zone}/{request_id}"

    @property
    def marks(self) -> str:
        """The key that tells when the store had reached which revision."""
        return f"{self.mine}upkeep/marks"

    def job(self, job_id: str) -> str:
        """Return the key of the record of a job of this zone."""
        return f"{self.mine}job/{job_id}"

    @property
    def owner(self) -> str:
        """The key that marks an etcd as one zone's own child process."""
        return f"{self.prefix}owner"
