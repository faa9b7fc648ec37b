"""Who we are to etcd: a user and password, traded for a token that all calls carry.

etcd forgets tokens: a simple one after five idle minutes and whenever a member restarts, a JWT when its time is over.
It then rejects the call before doing anything, so logging in again and repeating the call is safe.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from federation.etcd.errors import AuthDisabled, no_answer
from fedmarket.errors import Denied, FedmarketError

Metadata = tuple[tuple[str, str], ...]
LogIn = Callable[[float], Awaitable[str]]
"""Trades the password for a token, before a deadline (seconds of the loop's clock)."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user of etcd and its password."""

    user: str
    password: str = field(repr=False)


def with_token(token: str) -> Metadata:
    """Return the metadata of a call that carries a token; none for an empty one."""
    return (("token", token),) if token else ()


class Session:
    """The token of one login. Many ask for it, one at a time logs in.

    A login that etcd refused is not tried again for a while, whoever asks: a wrong password must not be hammered.
    """

    def __init__(self, log_in: LogIn | None, where: str, pause_seconds: float) -> None:
        self._log_in = log_in
        self._where = where
        self._pause_seconds = pause_seconds
        self._token: str | None = None
        self._lock = asyncio.Lock()
        self._failure: FedmarketError | None = None
        self._failed_at = 0.0

    async def token(self, deadline: float) -> str:
        """Return the token to send; empty if there is no login, or etcd asks for none.

        Raises Denied if etcd refuses the login, and StoreUnavailable if it does not answer before the deadline
        (seconds of the loop's clock).
        """
        if self._log_in is None:
            return ""
        if self._token is not None:
            return self._token
        asked_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(deadline):
                await self._lock.acquire()
        except TimeoutError:
            raise no_answer("did not let us log in within the deadline", where=self._where) from None
        try:
            if self._token is None:
                self._check_failure(asked_at)
                self._token = await self._renew(self._log_in, deadline)
                self._failure = None
            return self._token
        finally:
            self._lock.release()

    def forget(self, token: str) -> bool:
        """Use a token no more, because etcd rejects it. Return whether another may be had."""
        if self._token == token:
            self._token = None
        return self._log_in is not None

    async def _renew(self, log_in: LogIn, deadline: float) -> str:
        try:
            return await log_in(deadline)
        except AuthDisabled:
            return ""
        except FedmarketError as error:
            self._failure, self._failed_at = error, asyncio.get_running_loop().time()
            raise

    def _check_failure(self, asked_at: float) -> None:
        """Raise the last failure if it answers also who asked at that time: while it happened, or after a refusal."""
        if self._failure is None:
            return
        pause = self._pause_seconds if isinstance(self._failure, Denied) else 0.0
        if asked_at <= self._failed_at + pause:
            raise type(self._failure)(self._failure.message)
