"""Leases: granted, kept alive by a task of the context that holds them, revoked at its end."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import monotonic

from grpc import aio

from federation.etcd.auth import with_token
from federation.etcd.client import EtcdClient
from federation.etcd.errors import NotLoggedIn, from_rpc, no_answer
from federation.store import Compacted
from fedmarket.errors import FedmarketError
from fedmarket.pb.etcd import rpc_pb2 as rpc

log = logging.getLogger(__name__)

_RENEWALS_PER_TTL = 3  # two may fail before the lease does


class EtcdLease:
    """A lease as this side knows it: valid until its time has passed since it was last renewed.

    Time is counted from before a request was sent, so that this side lets go before the server does.
    """

    def __init__(self, lease_id: int, ttl_seconds: float, asked_at: float) -> None:
        self._id = lease_id
        self._ttl_seconds = ttl_seconds
        self._expires_at = asked_at + ttl_seconds

    @property
    def id(self) -> int:
        """The id that etcd gave it."""
        return self._id

    @property
    def lost(self) -> bool:
        """Whether the lease has ended, for all that this side knows. It does not come back."""
        return monotonic() >= self._expires_at

    async def keep(self, client: EtcdClient) -> None:
        """Renew the lease until it is lost."""
        pause = self._ttl_seconds / _RENEWALS_PER_TTL
        while not self.lost:
            await asyncio.sleep(pause)
            asked_at = monotonic()
            try:
                ttl_seconds = await _renew(client, self._id, min(pause, client.settings.call_seconds))
            except (FedmarketError, Compacted) as error:
                log.warning("lease %x was not renewed, trying again: %s", self._id, error)
                continue
            self._extend(asked_at + ttl_seconds)  # 0 seconds: the server has ended it
        log.warning("lease %x is lost", self._id)

    def _extend(self, expires_at: float) -> None:
        if not self.lost:
            self._expires_at = expires_at


@asynccontextmanager
async def hold(client: EtcdClient, ttl_seconds: float) -> AsyncGenerator[EtcdLease, None]:
    """Hold a lease while the context is open.

    Seconds are whole in etcd, which may grant more than was asked (at least about two). An etcd over its quota
    grants none: NoSpace.
    """
    asked_at = monotonic()
    request = rpc.LeaseGrantRequest(TTL=math.ceil(ttl_seconds))
    granted = await client.call(client.lease.LeaseGrant, request, doing="grant a lease")
    held = EtcdLease(granted.ID, granted.TTL, asked_at)
    keeper = asyncio.create_task(held.keep(client), name=f"keep lease {granted.ID:x}")
    try:
        yield held
    finally:
        keeper.cancel()
        await asyncio.wait({keeper})
        await _revoke(client, granted.ID)


async def _renew(client: EtcdClient, lease_id: int, seconds: float) -> int:
    """Return the seconds that the lease now has, 0 if it is gone."""
    doing = "renew a lease"
    request = rpc.LeaseKeepAliveRequest(ID=lease_id)
    token = await client.session.token(asyncio.get_running_loop().time() + seconds)
    try:
        call = client.lease.LeaseKeepAlive(
            iter([request]), timeout=seconds, metadata=with_token(token), wait_for_ready=True
        )
        response = await call.read()
    except aio.AioRpcError as error:
        failure = from_rpc(error, doing=doing, where=client.where)
        if isinstance(failure, NotLoggedIn):
            client.session.forget(token)
        raise failure from error
    if not isinstance(response, rpc.LeaseKeepAliveResponse):
        raise no_answer(f"failed to {doing}", where=client.where)
    return response.TTL


async def _revoke(client: EtcdClient, lease_id: int) -> None:
    try:
        request = rpc.LeaseRevokeRequest(ID=lease_id)
        await client.call(client.lease.LeaseRevoke, request, doing="revoke a lease")
    except (FedmarketError, Compacted) as error:
        log.info("lease %x was not revoked and ends by itself: %s", lease_id, error)
