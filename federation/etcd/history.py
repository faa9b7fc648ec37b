"""Whether the store is still the one that a watch has read from, with all the history that it goes on from."""

from federation.etcd.client import EtcdClient
from federation.etcd.errors import FutureRevision
from federation.etcd.ranges import below, encode
from federation.store import Change, Revision, WentBack
from fedmarket.pb.etcd import rpc_pb2 as rpc


class History:
    """What one watch knows of the store's history.

    A watch alone would not tell of some losses. A store that was put back from a backup has not reached our revision
    yet and says nothing until it has, or has passed it already, on another way. Another cluster may have taken the
    address. And a watch that begins at the compacted revision itself is accepted, while the deletes of that revision
    are gone. A store that went back under one watch did so under all watches of the client, so all are told.
    """

    def __init__(self, client: EtcdClient, prefix: str, start_revision: int) -> None:
        self.next = start_revision
        """The first revision that was not yielded yet. No header's revision is ever used for this: what it covers
        may still be on its way."""
        self._client = client
        self._prefix = prefix
        self._reached = start_revision - 1
        """The greatest revision that the store is known to have reached."""
        self._cluster_id = client.seen.cluster_id
        self._setbacks = client.seen.setbacks
        self._last_put: Change | None = None

    def passed(self, revision: Revision) -> None:
        """Note a revision that is about to be yielded."""
        self.next = revision.revision + 1
        self._reached = max(self._reached, revision.revision)
        self._last_put = next((change for change in reversed(revision.changes) if change.value is not None), None)

    def met(self, header: rpc.ResponseHeader) -> None:
        """Note the header of an answer. Raises WentBack if it is another cluster's, or the store has gone back."""
        if self._client.seen.setbacks != self._setbacks:
            raise WentBack(f"etcd at {self._client.where} has gone back, as another watch found")
        if self._cluster_id not in (0, header.cluster_id):
            raise self._setback(f"is another cluster than it was: {header.cluster_id:x}")
        self._cluster_id = header.cluster_id
        self._reached = max(self._reached, header.revision)

    async def check(self) -> None:
        """Raise WentBack unless the store, read linearizably, still holds the state before the next revision."""
        last, reached = self._last_put, self._reached
        key = encode(last.key) if last else below(self._prefix)[0]
        request = rpc.RangeRequest(key=key, revision=self.next - 1)
        try:
            answer = await self._client.call(self._client.kv.Range, request, doing=f"watch {self._prefix}")
        except FutureRevision as error:
            raise self._setback(f"has gone back before revision {request.revision}") from error
        self.met(answer.header)
        if answer.header.revision < reached:
            raise self._setback(f"has gone back from revision {reached} to {answer.header.revision}")
        if last and [(kv.mod_revision, kv.value) for kv in answer.kvs] != [(self.next - 1, last.value)]:
            raise self._setback(f"holds another revision {self.next - 1} than it did")

    def _setback(self, what: str) -> WentBack:
        self._client.seen.setbacks += 1
        return WentBack(f"etcd at {self._client.where} {what}")
