"""A link as it lives: dial, follow, back off, again; and what there is to say about it."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from federation.head import SealedHead
from federation.link.follow import Follower
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


class Link:
    """One peer being followed, for as long as `run` runs."""

    def __init__(
        self, follower: Follower, dial: Dial, backoff: Backoff, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._follower = follower
        self._dial = dial
        self._backoff = backoff
        self._clock = clock
        self._failures = 0
        self._retry = asyncio.Event()
        self.status = LinkStatus()

    def retry(self) -> None:
        """Leave a sticky fault: a person said so."""
        self._retry.set()

    async def run(self) -> None:
        """Follow the peer, for ever."""
        while True:
            close = await self._once()
            if close.reason != self.status.last_error:
                log.warning("link: %s (%s)", close.reason, close.state.value)
            self.status.state, self.status.last_error = close.state, close.reason
            self.status.last_error_time = time.time()
            if close.state in STICKY:
                self._retry.clear()
                await self._retry.wait()
            else:
                self._failures += 1
                await asyncio.sleep(self._backoff.delay(self._failures))

    async def _once(self) -> Close:
        try:
            async with self._dial() as stream:
                return await self._follower.follow(stream, self._progress)
        except StreamBroken as broken:
            return Close(str(broken))
        except FedmarketError as error:
            return Close(error.message)

    def _progress(self, sink: Sink) -> None:
        self.status.state = sink.state
        self.status.there = sink.there or self.status.there
        if sink.current:
            self.status.confirmed_at = self._clock()
            self._failures = 0
