"""The records of one catalog as a persistent Merkle tree of 256 buckets.

leaf = SHA-256(key 0x00 value); bucket = SHA-256 of its leaves in the order of their keys; root = SHA-256 of the 256
buckets. A record's bucket is the first byte of SHA-256(key). Vectors: tests/vectors/trees.json.

A tree is never changed: `apply` returns a new one that shares every untouched bucket, so that a state can be held by
reference while the catalog moves on.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import chain
from typing import NamedTuple, Self

BUCKETS = 256
EMPTY_BUCKET = sha256().digest()


class Leaf(NamedTuple):
    """A record in its bucket."""

    value: bytes
    digest: bytes


Bucket = Mapping[str, Leaf]


def leaf_digest(key: str, value: bytes) -> bytes:
    """Return the leaf of a record."""
    return sha256(key.encode() + b"\0" + value).digest()


def bucket_index(key: str) -> int:
    """Return the bucket that holds `key`."""
    return sha256(key.encode()).digest()[0]


def bucket_digest(bucket: Bucket) -> bytes:
    """Return the digest of a bucket. Keys are ASCII, so that text order is byte order."""
    return sha256(b"".join([bucket[key].digest for key in sorted(bucket)])).digest()  # a list is faster


def root_digest(digests: Iterable[bytes]) -> bytes:
    """Return the root over 256 bucket digests."""
    return sha256(b"".join(digests)).digest()


def apply_to_bucket(bucket: Bucket, puts: Mapping[str, bytes], deletes: Iterable[str]) -> Bucket:
    """Return `bucket` with changes, all of which must belong to it. A delete of what is not there changes nothing."""
    changed = dict(bucket)
    for key in deletes:
        changed.pop(key, None)
    for key, value in puts.items():
        changed[key] = Leaf(value, leaf_digest(key, value))
    return changed


class Tree:
    """An immutable set of records and its root."""

    __slots__ = ("_buckets", "count", "digests", "root")

    def __init__(self, buckets: Sequence[Bucket], digests: Sequence[bytes]) -> None:
        self._buckets = buckets
        self.digests = digests
        """The 256 bucket digests."""
        self.root = root_digest(digests)
        """The Merkle root."""
        self.count = sum(map(len, buckets))
        """How many records there are."""

    @classmethod
    def empty(cls) -> Self:
        """Return the tree without records."""
        return cls([{}] * BUCKETS, [EMPTY_BUCKET] * BUCKETS)

    @classmethod
    def of(cls, records: Mapping[str, bytes]) -> Self:
        """Return the tree of these records."""
        return cls.empty().apply(records)

    def apply(self, puts: Mapping[str, bytes], deletes: Iterable[str] = ()) -> Self:
        """Return the tree after these changes; a key that is in both is put."""
        touched: dict[int, tuple[dict[str, bytes], list[str]]] = {}
        for key in deletes:
            touched.setdefault(bucket_index(key), ({}, []))[1].append(key)
        for key, value in puts.items():
            touched.setdefault(bucket_index(key), ({}, []))[0][key] = value
        if not touched:
            return self
        return self.replace_buckets(
            {index: apply_to_bucket(self._buckets[index], *changes) for index, changes in touched.items()}
        )

    def replace_buckets(self, changed: Mapping[int, Bucket]) -> Self:
        """Return the tree with whole buckets exchanged."""
        buckets, digests = list(self._buckets), list(self.digests)
        for index, bucket in changed.items():
            buckets[index] = bucket
            digests[index] = bucket_digest(bucket)
        return type(self)(buckets, digests)

    def bucket(self, index: int) -> Bucket:
        """Return one bucket."""
        return self._buckets[index]

    def get(self, key: str) -> bytes | None:
        """Return a record's bytes."""
        leaf = self._buckets[bucket_index(key)].get(key)
        return None if leaf is None else leaf.value

    def items(self) -> Iterator[tuple[str, bytes]]:
        """Yield every record, in no useful order."""
        return ((key, leaf.value) for key, leaf in chain.from_iterable(b.items() for b in self._buckets))

    def changed_keys(self, other: "Tree") -> set[str]:
        """Return the keys whose records differ between this tree and another."""
        changed: set[str] = set()
        for index in range(BUCKETS):
            if self.digests[index] != other.digests[index]:
                changed.update(key for key, _ in self._buckets[index].items() ^ other.bucket(index).items())
        return changed
