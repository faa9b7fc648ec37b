"""One command's talk with an agent."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import grpc

from fedmarket.errors import BadInput, FedmarketError, Internal
from fedmarket.pb.fedmarket.v1.common_pb2 import Page, Ref
from zone_agent.cli import failures
from zone_agent.cli.connection import Connection
from zone_agent.telemetry.grpc_command import observed

LAST_PAGE = -1
MAX_ID = 2**31 - 1
MAX_ANSWER_BYTES = 64 << 20
CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # agents are near; a proxy in the environment is for the web
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
)

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Stub = TypeVar("Stub")


class Listed(Protocol):
    """An answer that is a page of a list."""

    @property
    def next(self) -> int:
        """Where the next page starts; -1: that was all."""


Paged = TypeVar("Paged", bound=Listed)


class Session:
    """A channel to an agent; every failure leaves it as an error of our tree."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._channel = observed(_channel(connection))

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return (("authorization", self.connection.authorization),)

    def close(self) -> None:
        """End the connection, and with it every call that is still running."""
        self._channel.close()

    def stub(self, cls: Callable[[grpc.Channel], Stub]) -> Stub:
        """Return the stub of a service."""
        return cls(self._channel)

    def call(
        self, method: "grpc.UnaryUnaryMultiCallable[Request, Answer]", request: Request, *, change: bool = False
    ) -> Answer:
        """Ask and wait for the answer. `change` says that the call asks for one: see `failures.failure`."""
        with self.failing(change=change):
            return method(request, timeout=self.connection.timeout, metadata=self.metadata)

    def pages(
        self, method: "grpc.UnaryUnaryMultiCallable[Request, Paged]", request: Callable[[Page], Request]
    ) -> Iterator[Paged]:
        """Ask for page after page until the last."""
        page = Page()
        while True:
            answer = self.call(method, request(page))
            yield answer
            if answer.next == LAST_PAGE:
                return
            if page.HasField("after") and answer.next <= page.after:
                raise Internal("the agent's list does not end: look at the agent's log and version")
            page = Page(after=answer.next)

    @contextmanager
    def failing(self, *, change: bool = False) -> Iterator[None]:
        """Turn gRPC's failures inside into errors of our tree."""
        try:
            yield
        except grpc.RpcError as error:
            raise failures.failure(error, self.connection, change=change) from None

    @contextmanager
    def listening(self, call: grpc.RpcContext, life: "LifeSigns", *, change: bool = False) -> Iterator[None]:
        """Hold a stream that may last, but not be silent for longer than the timeout.

        The call is cancelled on the way out, whatever the way.
        """
        watchdog = _Watchdog(call, life, self.connection.timeout)
        try:
            with self.failing(change=change):
                yield
        except FedmarketError:
            if watchdog.barked:
                raise failures.silent(self.connection, change=change) from None
            raise
        finally:
            watchdog.end()
            call.cancel()


class LifeSigns:
    """When something was last heard of a stream."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def heard(self, *, then_allow: float = 0.0) -> None:
        """Note a sign of life; the next may take `then_allow` seconds longer than the limit."""
        self.last = time.monotonic() + then_allow


class _Watchdog:
    """Cancels a call without signs of life: a thread that mostly sleeps."""

    def __init__(self, call: grpc.RpcContext, life: LifeSigns, limit: float) -> None:
        self.barked = False
        self._call = call
        self._life = life
        self._limit = limit
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while (left := self._life.last + self._limit - time.monotonic()) > 0:
            if self._ended.wait(left):
                return
        self.barked = True
        self._call.cancel()


def ref(text: str) -> Ref:
    """Return what a user gave as a reference: digits are an id, anything else a name. Raises BadInput."""
    if not (text.isascii() and text.isdigit()):
        return Ref(name=text)
    if int(text) > MAX_ID:
        raise BadInput(f"{text[:20]} is too great for an id: give an id up to {MAX_ID}, or a name")
    return Ref(id=int(text))


def _channel(connection: Connection) -> grpc.Channel:
    target = str(connection.address)
    if not connection.tls:
        return grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
    roots = None
    if connection.ca_file is not None:
        try:
            roots = connection.ca_file.read_bytes()
        except OSError as error:
            raise BadInput(
                f"the CA file {connection.ca_file} cannot be read ({error.strerror}): give one in PEM"
            ) from error
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(roots), options=CHANNEL_OPTIONS)
