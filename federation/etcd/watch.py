"""Following a prefix: complete revisions, in order, once, whatever happens to the connection."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from time import monotonic

from grpc import StatusCode, aio

from federation.etcd.client import EtcdClient
from federation.etcd.errors import FutureRevision, from_rpc, meaning, no_answer
from federation.etcd.ranges import below, decode
from federation.store import Change, Compacted, Revision, StoreUnavailable
from fedmarket.pb.etcd import rpc_pb2 as rpc
from fedmarket.pb.etcd.kv_pb2 import Event

log = logging.getLogger(__name__)

_Stream = aio.StreamStreamCall[rpc.WatchRequest, rpc.WatchResponse]
_PROGRESS = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())
_NEED_LEADER = (("hasleader", "true"),)
"""Metadata with which a member that has lost its leader ends the stream, so that another member is tried."""


def follow(client: EtcdClient, prefix: str, start_revision: int) -> AsyncGenerator[Revision, None]:
    """Yield each revision from `start_revision` on that changed something below `prefix`.

    Connects anew whenever the stream breaks or falls silent, and goes on after the last revision that it yielded.
    Reads from the server no faster than the caller takes.

    Raises Compacted if the history from the next revision on is gone, or the store is no longer the one it was, and
    Denied if etcd's access control does not let us read the prefix.
    """
    return _Watch(client, prefix, max(start_revision, 1)).revisions()


class Assembler:
    """Puts the events of a stream together into complete revisions.

    A revision is complete when an event of the next one is there, or at the end of a response that is no fragment:
    etcd cuts its responses between revisions, and cuts one into fragments anywhere.
    """

    def __init__(self, start_revision: int) -> None:
        self._start_revision = start_revision
        self._revision = 0
        self._changes: list[Change] = []

    def feed(self, response: rpc.WatchResponse) -> list[Revision]:
        """Return the revisions that this response completes. What is older than the start is left out."""
        complete: list[Revision] = []
        for event in response.events:
            revision = event.kv.mod_revision
            if revision < self._start_revision:
                continue
            if self._changes and revision != self._revision:
                complete.append(self._cut())
            self._revision = revision
            self._changes.append(_change(event))
        if self._changes and not response.fragment:
            complete.append(self._cut())
        return complete

    def _cut(self) -> Revision:
        cut = Revision(self._revision, self._changes)
        self._changes = []
        self._start_revision = self._revision + 1
        return cut


class _Watch:
    def __init__(self, client: EtcdClient, prefix: str, start_revision: int) -> None:
        self._client = client
        self._prefix = prefix
        self._next = start_revision
        """The first revision that was not yielded yet. The header's revision is never used for this: what it
        covers may still be on its way."""
        self._cluster_id = 0
        self._has_yielded = False

    async def revisions(self) -> AsyncGenerator[Revision, None]:
        """Yield from one stream after the other, until a reason that trying again does not cure."""
        outage = _Outage(self._prefix)
        while True:
            try:
                await self._check_history()
                async with aclosing(self._stream()) as batches:
                    async for batch in batches:
                        outage.ended()
                        for revision in batch:
                            self._next = revision.revision + 1
                            self._has_yielded = True
                            yield revision
            except StoreUnavailable as error:
                failures = outage.failed(error)
                await asyncio.sleep(self._client.settings.reconnect.delay(failures))

    async def _check_history(self) -> None:
        """Raise Compacted unless the store still holds the state before the next revision.

        A watch alone would not tell of two losses. A store that was restored from a backup has not reached our
        revision yet, and says nothing until it has. And a watch that begins at the compacted revision itself is
        accepted, while the deletes of that revision are gone.
        """
        before = self._next - 1
        if before == 0:
            return
        key, _ = below(self._prefix)
        request = rpc.RangeRequest(key=key, revision=before, keys_only=True)
        try:
            await self._client.call(self._client.kv.Range, request, doing=f"watch {self._prefix}")
        except FutureRevision as error:
            if self._has_yielded:
                raise Compacted(f"etcd at {self._client.where} has gone back before revision {before}") from error

    async def _stream(self) -> AsyncGenerator[list[Revision], None]:
        """Yield, for each response of one stream, the revisions that it completes."""
        assembler = Assembler(self._next)
        call = self._client.watch.Watch(metadata=_NEED_LEADER)
        try:
            await self._send(call, self._create_request())
            self._check_cluster(await self._receive(call))
            while True:
                yield assembler.feed(await self._receive(call))
        finally:
            call.cancel()

    def _create_request(self) -> rpc.WatchRequest:
        key, end = below(self._prefix)
        return rpc.WatchRequest(
            create_request=rpc.WatchCreateRequest(key=key, range_end=end, start_revision=self._next, fragment=True)
        )

    async def _send(self, call: _Stream, request: rpc.WatchRequest) -> None:
        try:
            async with asyncio.timeout(self._client.settings.call_seconds):
                with suppress(asyncio.InvalidStateError):  # the stream has ended: reading tells why
                    await call.write(request)
        except TimeoutError:
            raise self._silent(self._client.settings.call_seconds) from None
        except aio.AioRpcError as error:
            raise self._failed(error) from error

    async def _receive(self, call: _Stream) -> rpc.WatchResponse:
        """Return the next response; a server that is silent is asked for a sign of life."""
        settings = self._client.settings
        reading = asyncio.ensure_future(call.read())
        try:
            await asyncio.wait({reading}, timeout=settings.progress_seconds)
            if not reading.done():
                await self._send(call, _PROGRESS)
                await asyncio.wait({reading}, timeout=settings.silence_seconds)
            if not reading.done():
                raise self._silent(settings.progress_seconds + settings.silence_seconds)
            response = await reading
        except aio.AioRpcError as error:
            raise self._failed(error) from error
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if not isinstance(response, rpc.WatchResponse):
            raise no_answer(f"closed the watch of {self._prefix}", where=self._client.where)
        if response.canceled:
            raise self._canceled(response)
        return response

    def _check_cluster(self, created: rpc.WatchResponse) -> None:
        cluster_id = created.header.cluster_id
        if self._cluster_id not in (0, cluster_id):
            raise Compacted(f"etcd at {self._client.where} is another cluster than it was: {cluster_id:x}")
        self._cluster_id = cluster_id

    def _canceled(self, response: rpc.WatchResponse) -> Exception:
        if response.compact_revision:
            return Compacted(f"history before revision {response.compact_revision} is gone")
        reason = response.cancel_reason or "no reason given"
        return meaning(StatusCode.UNKNOWN, reason, doing=f"watch {self._prefix}", where=self._client.where)

    def _failed(self, error: aio.AioRpcError) -> Exception:
        return from_rpc(error, doing=f"watch {self._prefix}", where=self._client.where)

    def _silent(self, seconds: float) -> StoreUnavailable:
        return no_answer(f"was silent for {seconds:g} s on the watch of {self._prefix}", where=self._client.where)


class _Outage:
    """Says once that a watch was interrupted, and once that it goes on."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._failures = 0
        self._since = 0.0

    def failed(self, error: StoreUnavailable) -> int:
        """Note a failure; return how many there were since the watch last worked."""
        if not self._failures:
            self._since = monotonic()
            log.warning("watch of %s is interrupted, connecting anew: %s", self._prefix, error)
        self._failures += 1
        return self._failures

    def ended(self) -> None:
        """Note that the watch works."""
        if self._failures:
            seconds = monotonic() - self._since
            log.info("watch of %s goes on after %.1f s and %d tries", self._prefix, seconds, self._failures)
            self._failures = 0


def _change(event: Event) -> Change:
    return Change(decode(event.kv.key), None if event.type == Event.DELETE else event.kv.value)
