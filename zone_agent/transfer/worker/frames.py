"""Messages in a stream of bytes, each after its length."""

import asyncio
from typing import TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

LENGTH_BYTES = 4


def framed(message: Message) -> bytes:
    """Return a message as it is sent."""
    body = message.SerializeToString()
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


async def read_frame(stream: asyncio.StreamReader, kind: type[M]) -> M | None:
    """Return the next message, None where the stream ends, in the middle of one too."""
    try:
        length = int.from_bytes(await stream.readexactly(LENGTH_BYTES), "big")
        return kind.FromString(await stream.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
