"""The one retry policy."""

from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.errors import Denied, Timeout, Unavailable
from fedmarket.retry import Backoff, is_retryable, retry

BACKOFF = Backoff(first_seconds=1, longest_seconds=10)


class Flaky:
    """Fails with the given errors, one a call, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


class Sleeper:
    """Remembers how long it was asked to sleep."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_the_window_doubles_up_to_the_longest_wait() -> None:
    widest = [BACKOFF.delay(failures, lambda: 1.0) for failures in range(1, 7)]
    assert widest == [1, 2, 4, 8, 10, 10]


def test_the_jitter_covers_the_whole_window() -> None:
    assert BACKOFF.delay(3, lambda: 0.0) == 0
    assert BACKOFF.delay(3, lambda: 0.5) == 2


@given(failures=st.integers(1, 10**9), jitter=st.floats(0, 1, exclude_max=True))
def test_a_wait_is_bounded_after_any_number_of_failures(failures: int, jitter: float) -> None:
    assert 0 <= BACKOFF.delay(failures, lambda: jitter) <= BACKOFF.longest_seconds


def test_the_default_jitter_is_random() -> None:
    assert len({BACKOFF.delay(5) for _ in range(20)}) > 1


async def test_a_retryable_error_is_tried_again_after_growing_waits() -> None:
    call, sleep = Flaky(Unavailable("down"), Timeout("late"), Unavailable("down")), Sleeper()
    assert await retry(call, attempts=4, backoff=BACKOFF, sleep=sleep, random=lambda: 1.0) == "answer"
    assert sleep.slept == [1, 2, 4]


async def test_what_is_called_may_be_a_plain_function_that_returns_an_awaitable() -> None:
    flaky = Flaky(Unavailable("down"))

    def call() -> Awaitable[str]:
        return flaky()

    assert await retry(call, attempts=2, backoff=BACKOFF, sleep=Sleeper()) == "answer"


async def test_the_last_error_is_raised_as_it_is_when_the_attempts_are_used_up() -> None:
    last = Unavailable("still down")
    call, sleep = Flaky(Unavailable("down"), last, Unavailable("never asked")), Sleeper()
    with pytest.raises(Unavailable) as raised:
        await retry(call, attempts=2, backoff=BACKOFF, sleep=sleep)
    assert raised.value is last
    assert call.calls == 2
    assert len(sleep.slept) == 1


@pytest.mark.parametrize("error", [Denied("no"), ValueError("a bug")])
async def test_what_asking_again_cannot_help_is_raised_at_once(error: Exception) -> None:
    call, sleep = Flaky(error), Sleeper()
    with pytest.raises(type(error)):
        await retry(call, attempts=5, backoff=BACKOFF, sleep=sleep)
    assert call.calls == 1
    assert sleep.slept == []


def test_which_errors_are_retryable_is_what_the_table_of_causes_says() -> None:
    assert is_retryable(Unavailable("down"))
    assert is_retryable(Timeout("late"))
    assert not is_retryable(Denied("no"))
    assert not is_retryable(OSError("not of our tree"))
