"""Guarded transactions: the port's, put into etcd's words, and what etcd's answer means."""

from federation.etcd import ranges
from federation.etcd.client import EtcdClient
from federation.store import StoreUnavailable, Txn, TxnResult
from fedmarket.errors import Internal, NoSpace, TooLarge
from fedmarket.pb.etcd import rpc_pb2 as rpc

MAX_OPERATIONS = 128
"""etcd's default --max-txn-ops: of conditions, and of puts and deletes together."""


def check(txn: Txn) -> None:
    """Refuse what etcd would refuse, before it is sent: TooLarge or, if one key is written twice, Internal."""
    operations = max(len(txn.guards) + len(txn.not_newer), len(txn.puts) + len(txn.deletes))
    if operations > MAX_OPERATIONS:
        raise TooLarge(
            f"a transaction has {operations} operations and etcd takes {MAX_OPERATIONS}: "
            "make the change in smaller parts"
        )
    twice = (txn.puts.keys() & set(txn.deletes)) or len(set(txn.deletes)) < len(txn.deletes)
    if twice:
        raise Internal("a transaction writes one key twice, which etcd does not allow: report this as a bug")


async def commit(client: EtcdClient, txn: Txn) -> TxnResult:
    """Apply a transaction; it is sent once.

    Raises StoreUnavailable if the outcome is unknown; any other error means that nothing was changed.
    """
    check(txn)
    try:
        response = await client.call(client.kv.Txn, _request(txn), doing="apply a transaction")
    except NoSpace as error:
        if await _was_left_out(client, txn):
            raise
        raise StoreUnavailable(f"whether a transaction was applied is unknown: {error}") from error
    return _result(txn, response)


async def _was_left_out(client: EtcdClient, txn: Txn) -> bool:
    """Whether a transaction that was answered with "no space" has surely changed nothing.

    etcd looks at its quota before it takes a request, and again when it applies it; the second time it says "no
    space" and applies it all the same (quotaApplierV3 in etcd's apply.go). Those that are on their way when the
    space runs out meet this. Either way it is settled when the answer comes, so a key that it would have put and
    that still is what its guard says tells the two apart.
    """
    for key, seen in txn.guards.items():
        if key in txn.puts:
            now = await ranges.get(client, key)
            return (now.mod_revision if now else 0) == seen
    return False


def _request(txn: Txn) -> rpc.TxnRequest:
    request = rpc.TxnRequest()
    for key, revision in txn.guards.items():
        request.compare.add(
            key=ranges.encode(key),
            result=rpc.Compare.EQUAL,
            target=rpc.Compare.MOD,
            mod_revision=revision,  # 0 where there is no such key
        )
    for key, revision in txn.not_newer.items():
        request.compare.add(
            key=ranges.encode(key),
            result=rpc.Compare.LESS,
            target=rpc.Compare.MOD,
            mod_revision=revision + 1,
        )
    for key, value in txn.puts.items():
        put = rpc.PutRequest(key=ranges.encode(key), value=value, lease=txn.lease)
        request.success.add(request_put=put)
    for key in txn.deletes:
        request.success.add(request_delete_range=rpc.DeleteRangeRequest(key=ranges.encode(key)))
    if txn.read_on_failure is not None:
        read = rpc.RangeRequest(key=ranges.encode(txn.read_on_failure))
        request.failure.add(request_range=read)
    return request


def _result(txn: Txn, response: rpc.TxnResponse) -> TxnResult:
    current = None
    if not response.succeeded and txn.read_on_failure is not None:
        found = response.responses[0].response_range.kvs
        current = ranges.key_value(found[0]) if found else None
    return TxnResult(response.succeeded, response.header.revision, current)
