"""Heads: the signed summary of a catalog at one commit.

A head is signed and hashed as the bytes it was made of, never re-encoded. Vectors: tests/vectors/heads.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol, TypeAlias

from google.protobuf.message import DecodeError

from federation.tree import Tree
from fedmarket.errors import Corrupt
from fedmarket.pb.fedmarket.v1.head_pb2 import (
    CATALOG_FEDERATION,
    CATALOG_PRIVATE,
    Catalog,
    NextId,
    SignedHead,
)
from fedmarket.pb.fedmarket.v1.head_pb2 import Head as HeadMessage

DOMAIN = b"fedmarket/head/1\0"
FEDERATION = CATALOG_FEDERATION
PRIVATE = CATALOG_PRIVATE

CatalogId: TypeAlias = Catalog.ValueType
Pair = tuple[int, int]
"""(epoch, seq): the order of heads."""


class Verifier(Protocol):
    """A zone's public key, as heads need it."""

    @property
    def key_id(self) -> bytes:
        """First 16 bytes of SHA-256 over the raw key."""
        ...

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Say whether `signature` over `message` was made with the private half."""
        ...


class Signer(Protocol):
    """A zone's private key, as heads need it."""

    @property
    def public(self) -> Verifier:
        """The public half."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature over `message`."""
        ...


@dataclass(frozen=True, slots=True)
class Head:
    """What a head says. Fields as in proto/fedmarket/v1/head.proto."""

    zone: int
    catalog: CatalogId
    epoch: int
    seq: int
    root: bytes
    count: int
    next_ids: Mapping[str, int]
    prev: bytes
    agent: str
    time_ms: int

    @property
    def pair(self) -> Pair:
        """(epoch, seq)."""
        return self.epoch, self.seq

    def encode(self) -> bytes:
        """Return the body to be signed."""
        return HeadMessage(
            zone=self.zone,
            catalog=self.catalog,
            epoch=self.epoch,
            seq=self.seq,
            root=self.root,
            count=self.count,
            next_ids=[NextId(kind=kind, next=self.next_ids[kind]) for kind in sorted(self.next_ids)],
            prev=self.prev,
            agent=self.agent,
            time_ms=self.time_ms,
        ).SerializeToString()

    @classmethod
    def decode(cls, body: bytes) -> "Head":
        """Read a body. Raises Corrupt if it is none."""
        try:
            m = HeadMessage.FromString(body)
        except DecodeError as error:
            raise Corrupt("a head's body cannot be read") from error
        next_ids = {entry.kind: entry.next for entry in m.next_ids}
        return cls(m.zone, m.catalog, m.epoch, m.seq, m.root, m.count, next_ids, m.prev, m.agent, m.time_ms)


@dataclass(frozen=True, slots=True)
class SealedHead:
    """A head with its signature; whoever holds one made or verified it."""

    head: Head
    signed: SignedHead
    hash: bytes
    """SHA-256 of the body: what "the hash of a head" means everywhere."""

    @property
    def pair(self) -> Pair:
        """(epoch, seq)."""
        return self.head.pair

    def describes(self, tree: Tree) -> bool:
        """Say whether these are the records that the head was signed over."""
        return (self.head.root, self.head.count) == (tree.root, tree.count)

    def encode(self) -> bytes:
        """Return what is stored at .../head."""
        return self.signed.SerializeToString()


def seal(head: Head, key: Signer) -> SealedHead:
    """Sign a head."""
    body = head.encode()
    signed = SignedHead(body=body, key_id=key.public.key_id, sig=key.sign(DOMAIN + body))
    return SealedHead(head, signed, sha256(body).digest())


def unseal(signed: SignedHead, key: Verifier) -> SealedHead:
    """Verify a head's signature and read it. Raises Corrupt."""
    if signed.key_id != key.key_id:
        raise Corrupt(f"the head is signed by key {signed.key_id.hex() or 'none'}, not by {key.key_id.hex()}")
    if not key.verify(signed.sig, DOMAIN + signed.body):
        raise Corrupt("the head's signature does not verify")
    return SealedHead(Head.decode(signed.body), signed, sha256(signed.body).digest())


def unseal_bytes(raw: bytes, key: Verifier) -> SealedHead:
    """Verify and read what is stored at .../head. Raises Corrupt."""
    try:
        signed = SignedHead.FromString(raw)
    except DecodeError as error:
        raise Corrupt("what is stored as a head cannot be read") from error
    return unseal(signed, key)


def read_unverified(signed: SignedHead) -> SealedHead | None:
    """Read a head without verifying it, or None: only to compare its hash with those of heads we know."""
    try:
        return SealedHead(Head.decode(signed.body), signed, sha256(signed.body).digest())
    except Corrupt:
        return None
