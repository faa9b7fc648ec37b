"""The port to a stream between two agents. Adapters: zone_agent/peers.py (gRPC), the simulated network of the tests."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead

Sent_contra = TypeVar("Sent_contra", contravariant=True)
Received_co = TypeVar("Received_co", covariant=True)


Witness = Callable[[SignedHead], Awaitable[None]]
"""Judges a head of our own that the other side holds: whether our store was put back. Raises Unavailable."""


class StreamBroken(Exception):
    """The stream ended, for the reason given."""


async def send_within(stream: "Stream[Sent_contra, object]", message: Sent_contra, seconds: float) -> None:
    """Send a message, or give the stream up: whoever takes nothing for so long is gone. Raises StreamBroken."""
    try:
        async with asyncio.timeout(seconds):
            await stream.send(message)
    except TimeoutError:
        raise StreamBroken(f"the other side took nothing for {seconds:g} s") from None


class Stream(Protocol[Sent_contra, Received_co]):
    """One stream, seen from one side."""

    async def send(self, message: Sent_contra) -> None:
        """Send a message; waits while the other side does not read. Raises StreamBroken."""
        ...

    async def receive(self) -> Received_co:
        """Return the next message. Raises StreamBroken at the end."""
        ...
