"""The store's port on etcd."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager

from federation.etcd import ranges
from federation.etcd.client import EtcdClient
from federation.etcd.lease import hold
from federation.etcd.txn import commit
from federation.etcd.watch import follow
from federation.store import KeyValue, Lease, Revision, Snapshot, Txn, TxnResult


class EtcdStore:
    """A `federation.store.Store` in the etcd that the client is connected to."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    async def get(self, key: str) -> KeyValue | None:
        """Read one key, linearizably."""
        return await ranges.get(self._client, key)

    async def snapshot(self, prefix: str) -> Snapshot:
        """Read every key that begins with `prefix`, all at one revision."""
        return await ranges.snapshot(self._client, prefix)

    async def txn(self, txn: Txn) -> TxnResult:
        """Apply a guarded transaction. StoreUnavailable: the outcome is unknown; any other error: nothing was done."""
        return await commit(self._client, txn)

    def watch(self, prefix: str, start_revision: int) -> AsyncGenerator[Revision, None]:
        """Yield each revision from `start_revision` on that changed something below `prefix`: whole, in order, once."""
        return follow(self._client, prefix, start_revision)

    def lease(self, ttl_seconds: float) -> AbstractAsyncContextManager[Lease]:
        """Hold a lease while the context is open."""
        return hold(self._client, ttl_seconds)
