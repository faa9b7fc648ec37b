"""Following a prefix: complete revisions, in order, once, whatever happens to the connection."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from time import monotonic

from grpc import StatusCode, aio

from federation.etcd.auth import with_token
from federation.etcd.client import EtcdClient
from federation.etcd.errors import from_rpc, meaning, no_answer
from federation.etcd.history import History
from federation.etcd.ranges import below, decode
from federation.store import Change, Compacted, Revision, StoreUnavailable
from fedmarket.errors import Denied
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

    Raises Compacted if the history from the next revision on is gone, or the store is no longer the one it was (also
    if it has not reached the revision before the start: whoever knows that one saw it go back), and
    Denied if etcd's access control does not let us read the prefix. (etcd looks at the permission when a stream
    begins: a role that is taken away shows at the next one.)
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
        self._history = History(client, prefix, start_revision)
        self._token = ""

    async def revisions(self) -> AsyncGenerator[Revision, None]:
        """Yield from one stream after the other, until a reason that trying again does not cure."""
        outage = _Outage(self._prefix)
        denied = False
        while True:
            try:
                await self._history.check()
                async with aclosing(self._stream()) as batches:
                    async for batch in batches:
                        outage.ended()
                        denied = False
                        for revision in batch:
                            self._history.passed(revision)
                            yield revision
            except StoreUnavailable as error:
                failures = outage.failed(error)
                await asyncio.sleep(self._client.settings.reconnect.delay(failures))
            except Denied:
                # A member of etcd 3.4 answers so, too, when it does not know the token: once, that is no answer.
                if denied or not self._client.session.forget(self._token):
                    raise
                denied = True

    async def _stream(self) -> AsyncGenerator[list[Revision], None]:
        """Yield, for each response of one stream, the revisions that it completes."""
        assembler = Assembler(self._history.next)
        self._token = await self._client.session.token(self._client.deadline())
        call = self._client.watch.Watch(metadata=(*_NEED_LEADER, *with_token(self._token)))
        try:
            await self._send(call, self._create_request())
            await self._receive(call)
            while True:
                yield assembler.feed(await self._receive(call))
        finally:
            call.cancel()

    def _create_request(self) -> rpc.WatchRequest:
        key, end = below(self._prefix)
        return rpc.WatchRequest(
            create_request=rpc.WatchCreateRequest(
                key=key, range_end=end, start_revision=self._history.next, fragment=True
            )
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
        self._history.met(response.header)
        return response

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
