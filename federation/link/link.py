"""A link as it lives: dial, follow, back off, again; and what there is to say about it."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass

from federation.head import SealedHead
from federation.link.direct import Direct
from federation.link.follow import DEFAULT_BACKOFF, Follower
from federation.link.sink import Close, Sink, State
from federation.link.stream import Stream, StreamBroken
from fedmarket.errors import FedmarketError
from fedmarket.pb.fedmarket.v1.peer_pb2 import FromSink, FromSource
from fedmarket.retry import Backoff

log = logging.getLogger(__name__)

STICKY = frozenset({State.FORKED, State.REFUSED})

Dial = Callable[[], AbstractAsyncContextManager[Stream[FromSink, FromSource]]]
"""Opens a stream to the peer. Raises StreamBroken if it cannot."""


@dataclass(slots=True)
class LinkStatus:
    """What is known of a link now."""

    state: State = State.DOWN
    there: SealedHead | None = None
    """What the peer last said it has."""
    confirmed_at: float | None = None
    """When the replica was last known to be current, on the monotonic clock, in seconds."""
    last_error: str = ""
    last_error_time: float = 0.0
    """Unix seconds; information only."""

    def age(self, now: float) -> float | None:
        """Return for how many seconds the replica has not been known to be current; None: it never was."""
        return None if self.confirmed_at is None else max(0.0, now - self.confirmed_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """How a link dials."""

    backoff: Backoff = DEFAULT_BACKOFF
    """Pace at which it dials again."""
    probe_seconds: float = 60.0
    """Pace at which a peer is asked again that refused for a reason which may go by itself."""
    unheard: int = 3
    """After so many streams in a row on which the peer said nothing, it may be that it does not trust this zone."""


class Link:
    """One peer being followed, for as long as `run` runs."""

    def __init__(
        self,
        follower: Follower,
        direct: Direct,
        dial: Dial,
        settings: LinkSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._follower = follower
        self._direct = direct
        self._dial = dial
        self._settings = settings
        self._clock = clock
        self._failures = 0
        self._unheard = 0
        self._heard = False
        """Whether the peer said anything on this stream."""
        self._again = asyncio.Event()
        self._elsewhere = asyncio.Event()
        self.status = LinkStatus()
        self.tried = asyncio.Event()
        """Set once the peer was heard, or could not be."""
        self.dials = 0
        """Streams that were begun."""
        self.ended = 0
        """Streams that have ended."""

    def retry(self) -> None:
        """Dial now, also out of a sticky fault: a person said so."""
        self._again.set()

    def redial(self) -> None:
        """End the stream, if there is one, and dial now: the peer has another address."""
        self._elsewhere.set()
        self._again.set()

    async def run(self) -> None:
        """Follow the peer, for ever: where it writes if that is our own etcd, else by one stream after the other."""
        while True:
            if self._direct.fault is None and self._direct.near:
                await self._read_directly()
                continue
            close = self._direct.fault or await self._stream()
            if close is None:
                continue
            self._note(close)
            self.tried.set()
            if close.state not in STICKY:
                self._failures += 1
                await self._pause(self._settings.backoff.delay(self._failures))
            elif close.passing:
                await self._pause(self._settings.probe_seconds)
            else:
                self._direct.refuse(close)
                await self._pause(None)
                self._direct.forgive()

    async def _read_directly(self) -> None:
        """Leave the link alone while the peer's agents are at work in our own etcd."""
        self._failures = self._unheard = 0
        while self._direct.fault is None and self._direct.near:
            if self._direct.shared:
                self.status.state, self.status.last_error = State.SHARED, ""
                self.status.there = self._direct.catalog.state.head if self._direct.catalog.state else None
                self.status.confirmed_at = self._clock() - self._direct.age
            self.tried.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._direct.remaining):
                    await self._direct.pulse.wait()
        self.status.state = State.DOWN

    async def _stream(self) -> Close | None:
        """Follow the peer by one stream; None if it was ended because the peer is to be found elsewhere.

        That is at another address, or at work in our own etcd.
        """
        self._elsewhere.clear()
        stream = asyncio.create_task(self._once())
        elsewhere = [asyncio.create_task(wait()) for wait in (self._direct.wait_shared, self._elsewhere.wait)]
        try:
            await asyncio.wait([stream, *elsewhere], return_when=asyncio.FIRST_COMPLETED)
            return stream.result() if stream.done() else None
        finally:
            for task in (stream, *elsewhere):
                task.cancel()
            await asyncio.gather(stream, *elsewhere, return_exceptions=True)

    async def _once(self) -> Close:
        self._heard = False
        self.dials += 1
        self._again.clear()
        try:
            async with self._dial() as stream:
                return await self._follower.follow(stream, self)
        except StreamBroken as broken:
            return Close(str(broken))
        except FedmarketError as error:
            return Close(error.message)

    def _note(self, close: Close) -> None:
        reason, self.ended = close.reason, self.dials
        self._unheard = 0 if self._heard else self._unheard + 1
        if close.state is State.DOWN and self._unheard >= self._settings.unheard:
            reason = f"down, perhaps not trusted there: {reason}"
        if reason != self.status.last_error:
            log.warning("link: %s (%s)", reason, close.state.value)
        self.status.state, self.status.last_error = close.state, reason
        self.status.last_error_time = time.time()

    async def _pause(self, seconds: float | None) -> None:
        """Wait so long, or until a person says that the peer is to be dialled."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._again.wait()

    def heard(self) -> None:
        """Note that the peer said something: the follower's report."""
        self._heard = True

    def progress(self, sink: Sink) -> None:
        """Note that the sink may have moved: the follower's report."""
        self.tried.set()
        self.status.state = sink.state
        self.status.there = sink.there or self.status.there
        if sink.current:
            self.status.confirmed_at = self._clock()
            self._failures = 0

    def stalled(self, reason: str) -> None:
        """Note that our own etcd refuses what the peer said: the follower's report."""
        if reason != self.status.last_error:
            log.warning("link: not reading on, because of our own etcd: %s", reason)
        self.status.last_error, self.status.last_error_time = reason, time.time()
