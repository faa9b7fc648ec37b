"""Changes of another zone's records: sent to their home, and decided there.

What comes of one is done, refused, or unknown. It is unknown when the request was sent and no answer came, however
often it was asked again; asking with the same request id, now or later, makes the change at most once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from federation.head import Pair
from fedmarket.errors import OutcomeUnknown, Timeout, Unavailable, error_of
from fedmarket.pb.fedmarket.v1.peer_pb2 import ForwardRequest, ForwardResponse, Made, Refusal, SettleRequest
from fedmarket.retry import Backoff, retry

ATTEMPTS = 1000
"""The deadline comes first."""


class PeerChanges(Protocol):
    """What is asked of other zones."""

    async def reach(self, zone: int) -> None:
        """Make sure that a zone can be reached. Raises Unavailable."""
        ...

    async def forward(self, zone: int, request: ForwardRequest) -> ForwardResponse:
        """Ask for a change. Raises Unavailable: then it may or may not be made. Any other error: it never will be."""
        ...

    async def settle(self, zone: int, request: SettleRequest) -> ForwardResponse:
        """Ask what became of a change, and make it definite. Raises Unavailable."""
        ...


WaitVisible = Callable[[int, Pair], Awaitable[None]]
"""Waits until this zone sees a commit of another one. Raises Timeout."""


class Forwarder:
    """Asks other zones for changes, for as long as is needed and bearable."""

    def __init__(
        self,
        peers: PeerChanges,
        called: Callable[[int], str],
        wait_visible: WaitVisible,
        seconds: float,
        backoff: Backoff,
    ) -> None:
        self._peers = peers
        self._called = called
        self._wait_visible = wait_visible
        self._seconds = seconds
        self._backoff = backoff

    async def forward(self, zone: int, request: ForwardRequest) -> tuple[int, bool]:
        """Have a change made by its home; return the record's id, and whether this zone sees the change already.

        Raises Unavailable if the zone cannot be reached: then nothing was sent. Raises OutcomeUnknown if no definite
        answer came in time, and whatever the home refuses it with.
        """
        try:
            await self._peers.reach(zone)
        except Unavailable as error:
            raise Unavailable(
                f"zone {self._called(zone)}, whose record this is, cannot be reached, and nothing was sent: "
                f"{error.message}"
            ) from error
        of = f" of {request.change.kind} {request.change.id}"
        outcome = await self._outcome(zone, request.request_id, lambda: self._peers.forward(zone, request), of)
        if isinstance(outcome, Refusal):
            raise error_of(outcome.code, outcome.text)
        return outcome.id, await self._is_visible(zone, outcome)

    async def settle(self, zone: int, request_id: str) -> Made | Refusal:
        """Return what became of a request; one that was not made never will be. Raises OutcomeUnknown."""
        request = SettleRequest(request_id=request_id)
        return await self._outcome(zone, request_id, lambda: self._peers.settle(zone, request))

    async def _outcome(
        self, zone: int, request_id: str, ask: Callable[[], Awaitable[ForwardResponse]], of: str = ""
    ) -> Made | Refusal:
        """Ask until there is a definite answer. Raises OutcomeUnknown at the deadline."""
        last = "it did not answer"

        async def attempt() -> Made | Refusal:
            nonlocal last
            try:
                response = await ask()
                match response.WhichOneof("outcome"):
                    case "made":
                        return response.made
                    case "refusal":
                        return response.refusal
                    case "pending":
                        raise Unavailable(response.pending)
                raise Unavailable("it answered with nothing that this version knows: upgrade this agent")
            except Unavailable as error:
                last = error.message
                raise

        try:
            async with asyncio.timeout(self._seconds):
                return await retry(attempt, attempts=ATTEMPTS, backoff=self._backoff)
        except (TimeoutError, Unavailable):
            raise OutcomeUnknown(
                f"whether zone {self._called(zone)} made the change{of} is not known ({last}): ask again, by its id, "
                f"with `--request-id {request_id}`, which makes it at most once, or let `fedmarket request resolve "
                f"{request_id} --zone {zone}` make it definite",
                request_id=request_id,
                zone=str(zone),
            ) from None

    async def _is_visible(self, zone: int, made: Made) -> bool:
        try:
            await self._wait_visible(zone, (made.epoch, made.seq))
        except Timeout:
            return False
        return True
