"""How we try again: one policy, exponential backoff with full jitter, bounded in every direction."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from fedmarket.errors import FedmarketError, cause_of

Result = TypeVar("Result")
Random = Callable[[], float]
"""A number in [0, 1), evenly spread."""

_MAX_DOUBLINGS = 32  # keeps 2**n a small number, whatever the count of failures


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait before each new try.

    The wait after the n-th failure in a row is a random time below `first_seconds * 2**(n-1)`, never above
    `longest_seconds`. It is random over its whole length (full jitter), so that those who failed together do
    not come back together.
    """

    first_seconds: float = 0.1
    longest_seconds: float = 10.0

    def delay(self, failures: int, random: Random = random.random) -> float:
        """Return the seconds to wait after `failures` (1 or more) failures in a row."""
        doublings = min(failures - 1, _MAX_DOUBLINGS)
        return random() * min(self.longest_seconds, self.first_seconds * 2.0**doublings)


def is_retryable(error: BaseException) -> bool:
    """Whether asking again may help, by the table of causes."""
    return isinstance(error, FedmarketError) and cause_of(error).retryable


async def retry(
    call: Callable[[], Awaitable[Result]],
    *,
    attempts: int,
    backoff: Backoff,
    retry_on: Callable[[BaseException], bool] = is_retryable,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    random: Random = random.random,
) -> Result:
    """Await `call()` until it succeeds, at most `attempts` times; the last error is raised as it is.

    Only for what is safe to do twice: a call whose outcome may be unknown is not.
    """

    async def attempt() -> Result:  # tenacity awaits only what is declared async
        return await call()

    retrying = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(attempts),
        wait=lambda state: backoff.delay(state.attempt_number, random),
        retry=tenacity.retry_if_exception(retry_on),
        sleep=sleep,
        reraise=True,
    )
    return await retrying(attempt)
