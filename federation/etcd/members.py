"""The members of one etcd as one channel: each is dialled by its own name, and calls go to those that are connected.

gRPC has no target of several names. Given several addresses, it holds the certificates of all against one name, while
those of etcd's members bear a name each; and it would never look the names up again, while members do move.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from grpc import ChannelConnectivity, StatusCode, aio

from federation.etcd.auth import Metadata
from fedmarket.errors import ConfigError

_RESOLVER = "dns://"  # the name servers of this machine; an address is its own answer
_NO_ANSWER = {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED}  # also of a member without a quorum
_FAILING = {ChannelConnectivity.TRANSIENT_FAILURE, ChannelConnectivity.SHUTDOWN}


def targets(endpoints: Sequence[str]) -> list[str]:
    """Return gRPC's targets for endpoints as people write them ("host:port"). Raises ConfigError."""
    if not endpoints:
        raise ConfigError("no etcd endpoint is given: set at least one as host:port")
    return [_target(endpoint) for endpoint in endpoints]


def _target(endpoint: str) -> str:
    host, _, port = endpoint.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"the etcd endpoint {endpoint!r} is not host:port: write it like 127.0.0.1:2379")
    return f"{_RESOLVER}/{endpoint}"


class Members:
    """As much of a `grpc.aio.Channel` as etcd's stubs use, over a channel to each member.

    All calls go to one member, for as long as it is connected and answers in time; then on to the next. Where none is
    connected, a call waits for one as its `wait_for_ready` says: until its deadline, or until all failed to connect.
    Streams go round the members: a new one is often there because the last one fell silent.
    """

    def __init__(self, channels: Sequence[aio.Channel]) -> None:
        self._channels = channels
        # By chance, so that agents do not all sit on the first one.
        self._current = self._last_stream = random.randrange(len(channels))  # noqa: S311 -- no secret
        self._changes: dict[int, asyncio.Task[None]] = {}
        """For each member, one that waits for its state to change, for all calls: gRPC takes no wait back."""

    def unary_unary(self, path: str, **codecs: Any) -> "_Unary":
        """Return the method at `path`, to be called with one request for one response."""
        return _Unary(self, [channel.unary_unary(path, **codecs) for channel in self._channels])

    def unary_stream(self, path: str, **codecs: Any) -> "_Stream":
        """Return the method at `path`, to be called with one request for a stream."""
        return _Stream(self, [channel.unary_stream(path, **codecs) for channel in self._channels])

    def stream_stream(self, path: str, **codecs: Any) -> "_Stream":
        """Return the method at `path`, to be called with a stream for a stream."""
        return _Stream(self, [channel.stream_stream(path, **codecs) for channel in self._channels])

    async def close(self) -> None:
        """Close every channel; what is under way is cancelled."""
        for change in self._changes.values():
            change.cancel()
        await asyncio.gather(*self._changes.values(), return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self._channels))

    def for_call(self) -> int:
        """Return the index of the member to call: the current one, or the next that is connected, if any is."""
        self._current = self._connected_from(self._current)
        return self._current

    def for_stream(self) -> int:
        """Return the index of the member for a new stream: the next after the last one's that is connected."""
        self._last_stream = self._connected_from((self._last_stream + 1) % len(self._channels))
        return self._last_stream

    def leave(self, member: int) -> None:
        """Choose another member from now on: this one is connected, and did not answer."""
        if self._current == member:
            self._current = (member + 1) % len(self._channels)

    async def connected(self, deadline: float, *, wait_for_ready: bool) -> int:
        """Return `for_call()` once a member is connected, or there is nothing to wait for, or at the deadline."""
        while True:
            states = self._states()
            waits = wait_for_ready or not _FAILING.issuperset(states)
            remaining = deadline - asyncio.get_running_loop().time()
            if ChannelConnectivity.READY in states or not waits or remaining <= 0:
                return self.for_call()
            for index, state in enumerate(states):
                if index not in self._changes or self._changes[index].done():
                    change = self._channels[index].wait_for_state_change(state)
                    self._changes[index] = asyncio.create_task(change)
            await asyncio.wait(self._changes.values(), timeout=remaining, return_when=asyncio.FIRST_COMPLETED)

    def _connected_from(self, first: int) -> int:
        states = self._states()
        turns = [(first + step) % len(states) for step in range(len(states))]
        return next((turn for turn in turns if states[turn] is ChannelConnectivity.READY), first)

    def _states(self) -> list[ChannelConnectivity]:
        return [channel.get_state(try_to_connect=True) for channel in self._channels]


class _Unary:
    """One method of one request and one response, at whichever member is connected."""

    def __init__(self, members: Members, methods: Sequence[aio.UnaryUnaryMultiCallable[Any, Any]]) -> None:
        self._members = members
        self._methods = methods

    async def __call__(self, request: Any, *, timeout: float, metadata: Metadata, wait_for_ready: bool) -> Any:
        now = asyncio.get_running_loop().time
        deadline = now() + timeout
        member = await self._members.connected(deadline, wait_for_ready=wait_for_ready)
        # What there was to wait for is over: a member that fails now is an error now, and the next try meets another.
        timeout = deadline - now()
        try:
            return await self._methods[member](request, timeout=timeout, metadata=metadata, wait_for_ready=False)
        except aio.AioRpcError as error:
            if error.code() in _NO_ANSWER:
                self._members.leave(member)
            raise


class _Stream:
    """One method that answers by a stream, at whichever member is connected now."""

    def __init__(
        self,
        members: Members,
        methods: Sequence[aio.StreamStreamMultiCallable[Any, Any] | aio.UnaryStreamMultiCallable[Any, Any]],
    ) -> None:
        self._members = members
        self._methods = methods

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._methods[self._members.for_stream()](*arguments, **options)
