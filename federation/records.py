"""Records: a message of its kind in an envelope. Bytes are kept as they came.

A home changes a record by editing the parsed message, so that fields and envelopes of a newer version survive.
"""

import secrets
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from federation.keys import ZONE_KIND
from fedmarket.errors import Corrupt, Refused
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    AppRecord,
    DatastoreRecord,
    Envelope,
    ImageRecord,
    MarketRecord,
    ZoneRecord,
)

SCHEMA = 1
"""The schema version that this code knows."""
OLDEST = 1
"""The lowest schema version that may change what this code writes. docs/formats.md, "Upgrading", says when it rises."""

KINDS: dict[str, type[Message]] = {
    ZONE_KIND: ZoneRecord,
    "market": MarketRecord,
    "app": AppRecord,
    "datastore": DatastoreRecord,
    "image": ImageRecord,
}
_KIND_OF = {message: kind for kind, message in KINDS.items()}

PARENTS = {"app": ("market", "market_id"), "image": ("datastore", "datastore_id")}
"""Kind to the kind that it belongs to, and the field that says to which."""

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Record(Generic[M]):
    """A record as it can be edited: change `message` in place, then put it. What a newer version added stays."""

    envelope: Envelope
    message: M

    @property
    def uid(self) -> str:
        """The random name of the thing itself, as hex: tells two things of one id apart."""
        return self.envelope.uid.hex()


def kind_of(message: type[Message]) -> str:
    """Return the kind that a message class is stored as."""
    return _KIND_OF[message]


def new_record(message: M) -> Record[M]:
    """Wrap a new thing, with a uid of its own."""
    return Record(Envelope(uid=secrets.token_bytes(16), min_reader=OLDEST), message)


def check_changeable(record: Record[M]) -> None:
    """Raise Refused if only a newer version may change or delete a record."""
    if record.envelope.min_reader > SCHEMA:
        raise Refused(
            f"this {kind_of(type(record.message))} may be changed only by a version that knows schema "
            f"{record.envelope.min_reader}, and this one knows {SCHEMA}: upgrade the agent"
        )


def encode(record: Record[M]) -> bytes:
    """Return a record's bytes. Raises Refused if only a newer version may change it."""
    check_changeable(record)
    record.envelope.payload = record.message.SerializeToString()
    return record.envelope.SerializeToString()


def decode(message: type[M], value: bytes) -> Record[M]:
    """Read a record's bytes. Raises Corrupt."""
    try:
        envelope = Envelope.FromString(value)
        return Record(envelope, message.FromString(envelope.payload))
    except DecodeError as error:
        raise Corrupt(f"a record of kind {kind_of(message)} cannot be read") from error
