"""Reading keys: one, or all below a prefix at one revision, in pages."""

from federation.etcd.client import EtcdClient
from federation.etcd.errors import no_answer
from federation.store import Compacted, KeyValue, Snapshot
from fedmarket.errors import TooLarge
from fedmarket.pb.etcd import rpc_pb2 as rpc
from fedmarket.pb.etcd.kv_pb2 import KeyValue as StoredKeyValue


def encode(key: str) -> bytes:
    """Return the bytes of a key."""
    return key.encode("utf-8", "surrogateescape")


def decode(key: bytes) -> str:
    """Return the text of a key. Bytes that are no UTF-8, which only others can have written, survive the way back."""
    return key.decode("utf-8", "surrogateescape")


def below(prefix: str) -> tuple[bytes, bytes]:
    """Return `key` and `range_end` of all keys that begin with `prefix`, as etcd's requests want them."""
    first = encode(prefix)
    trimmed = first.rstrip(b"\xff")
    if not trimmed:
        return first or b"\0", b"\0"  # a range_end of one zero byte: no end
    return first, trimmed[:-1] + bytes([trimmed[-1] + 1])


def key_value(stored: StoredKeyValue) -> KeyValue:
    """Return etcd's key as the port knows it."""
    return KeyValue(decode(stored.key), stored.value, stored.mod_revision)


async def get(client: EtcdClient, key: str) -> KeyValue | None:
    """Read one key, linearizably."""
    response = await client.call(client.kv.Range, rpc.RangeRequest(key=encode(key)), doing=f"read {key}")
    return key_value(response.kvs[0]) if response.kvs else None


async def snapshot(client: EtcdClient, prefix: str) -> Snapshot:
    """Read all keys below a prefix at one revision, that of the first page.

    If compaction takes that revision away while the pages are read, it begins again. Raises StoreUnavailable if
    etcd does not answer, or compaction was faster each time.
    """
    for _ in range(client.settings.snapshot_attempts):
        try:
            return await _read_pages(client, prefix)
        except Compacted:
            continue
    raise no_answer(
        f"compacted its history faster than {prefix or 'everything'} could be read, "
        f"{client.settings.snapshot_attempts} times in a row",
        where=client.where,
    )


async def _read_pages(client: EtcdClient, prefix: str) -> Snapshot:
    first, end = below(prefix)
    page_keys = client.settings.page_keys
    revision = 0  # the newest; the first answer says which that is
    items: list[KeyValue] = []
    while True:
        request = rpc.RangeRequest(key=first, range_end=end, revision=revision, limit=page_keys)
        try:
            page = await client.call(client.kv.Range, request, doing=f"list {prefix or 'everything'}")
        except TooLarge:
            if page_keys == 1:
                raise
            page_keys //= 2
            continue
        revision = revision or page.header.revision
        items.extend(map(key_value, page.kvs))
        if not page.more:
            return Snapshot(revision, items)
        first = page.kvs[-1].key + b"\0"
