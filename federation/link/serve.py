"""Serving one follower: connects a source to a stream."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from federation.link.source import Refusal, Source
from federation.link.stream import Stream, StreamBroken, Witness, send_within
from federation.pulse import Pulse
from fedmarket.errors import FedmarketError
from fedmarket.pb.fedmarket.v1.head_pb2 import SignedHead
from fedmarket.pb.fedmarket.v1.peer_pb2 import FromSink, FromSource


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Bounds of a stream, on the home's side."""

    beat_seconds: float = 2.0
    """A quiet stream says so this often."""
    diff_idle_seconds: float = 60.0
    """How long a state is held for a follower that asks for nothing, and a stream for one that takes nothing."""


async def serve(
    source: Source,
    stream: Stream[FromSource, FromSink],
    published: Pulse,
    witness: Witness,
    settings: ServeSettings,
) -> None:
    """Serve a follower until its stream ends.

    `published` fires when the home's catalog moves; `witness` judges what the follower holds, before it is answered.
    """
    inbox: asyncio.Queue[FromSink | None] = asyncio.Queue(maxsize=16)
    wake = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        helpers = [tasks.create_task(_read(stream, inbox, wake)), tasks.create_task(_watch(published, wake))]
        try:
            await _talk(source, stream, inbox, wake, witness, settings)
        except Refusal as refusal:
            with suppress(StreamBroken):
                await send_within(stream, refusal.message, settings.beat_seconds)
        except StreamBroken:
            pass  # the follower went away: nothing of ours depends on it
        finally:
            for helper in helpers:
                helper.cancel()


async def _talk(
    source: Source,
    stream: Stream[FromSource, FromSink],
    inbox: asyncio.Queue[FromSink | None],
    wake: asyncio.Event,
    witness: Witness,
    settings: ServeSettings,
) -> None:
    loop = asyncio.get_running_loop()
    beat_at = heard_at = loop.time()
    while True:
        wake.clear()
        while not inbox.empty():
            message = inbox.get_nowait()
            if message is None:
                return
            heard_at = loop.time()
            if message.WhichOneof("message") == "hello" and message.hello.HasField("have"):
                await _judge(witness, message.hello.have)
            source.receive(message)
        while (answer := source.next()) is not None:
            await send_within(stream, answer, settings.diff_idle_seconds)
            beat_at = loop.time()
            if not inbox.empty():
                break
        if loop.time() - heard_at > settings.diff_idle_seconds:
            if not source.greeted:
                return
            source.drop_diff()
        if loop.time() - beat_at >= settings.beat_seconds and (beat := source.beat()) is not None:
            await send_within(stream, beat, settings.diff_idle_seconds)
            beat_at = loop.time()
        if inbox.empty():
            await _wait(wake, settings.beat_seconds)


async def _judge(witness: Witness, have: SignedHead) -> None:
    try:
        await witness(have)
    except FedmarketError as error:
        raise Refusal("busy", error.message) from error


async def _wait(wake: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        return


async def _read(
    stream: Stream[FromSource, FromSink], inbox: asyncio.Queue[FromSink | None], wake: asyncio.Event
) -> None:
    try:
        while True:
            await inbox.put(await stream.receive())
            wake.set()
    except StreamBroken:
        await inbox.put(None)
        wake.set()


async def _watch(published: Pulse, wake: asyncio.Event) -> None:
    while True:
        await published.wait()
        wake.set()
