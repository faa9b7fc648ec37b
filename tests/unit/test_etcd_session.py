"""Logging in to etcd: once for many who ask, again when a token is rejected, not for a while when it was refused."""

import asyncio
from collections.abc import Callable

import pytest

from federation.etcd.auth import Login, Session, with_token
from federation.etcd.errors import AuthDisabled
from federation.store import StoreUnavailable
from fedmarket.errors import Denied

PAUSE = 1000.0  # no test waits for it


class Server:
    """Gives out tokens, or fails, when it is told to answer."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Callable[[], Exception] | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def log_in(self, deadline: float) -> str:
        self.asked += 1
        number = self.asked
        await self.answers.wait()
        if self.error is not None:
            raise self.error()
        return f"token-{number}"


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def session(server: Server) -> Session:
    return Session(server.log_in, "here", PAUSE)


def soon(seconds: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def asking(session: Session, count: int) -> list[asyncio.Task[str]]:
    """Start so many who want the token, and let them begin to wait."""
    tasks = [asyncio.create_task(session.token(soon())) for _ in range(count)]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_many_who_ask_at_once_log_in_once(server: Server, session: Session) -> None:
    server.answers.clear()
    tasks = await asking(session, 20)
    server.answers.set()
    assert await asyncio.gather(*tasks) == ["token-1"] * 20
    assert await session.token(soon()) == "token-1"


async def test_a_rejected_token_is_renewed_once_however_many_had_it(server: Server, session: Session) -> None:
    token = await session.token(soon())
    for _ in range(20):
        assert session.forget(token)
        assert await session.token(soon()) == "token-2"
    assert server.asked == 2


async def test_without_a_login_there_is_no_token_and_none_to_be_had() -> None:
    session = Session(None, "here", PAUSE)
    assert await session.token(soon()) == ""
    assert not session.forget("")
    assert with_token("") == ()


async def test_where_etcd_asks_for_no_login_none_is_sent_until_it_does(server: Server, session: Session) -> None:
    server.error = lambda: AuthDisabled("off")
    assert await session.token(soon()) == ""
    server.error = None
    assert session.forget("")
    assert await session.token(soon()) == "token-2"


async def test_a_refused_login_is_not_tried_again_for_a_while(server: Server, session: Session) -> None:
    server.error = lambda: Denied("wrong")
    for _ in range(20):
        with pytest.raises(Denied, match="wrong"):
            await session.token(soon())
    assert server.asked == 1


async def test_a_refused_login_is_tried_again_after_the_while(server: Server) -> None:
    session = Session(server.log_in, "here", pause_seconds=0.01)
    server.error = lambda: Denied("wrong")
    with pytest.raises(Denied):
        await session.token(soon())
    server.error = None
    await asyncio.sleep(0.02)
    assert await session.token(soon()) == "token-2"


async def test_who_waited_for_a_failed_login_fails_with_it_and_who_asks_later_tries_again(
    server: Server, session: Session
) -> None:
    server.error = lambda: StoreUnavailable("down")
    server.answers.clear()
    tasks = await asking(session, 20)
    server.answers.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {str(result) for result in results} == {"down"}
    assert server.asked == 1
    server.error = None
    assert await session.token(soon()) == "token-2"


async def test_a_login_that_is_cancelled_is_taken_over_by_the_next(server: Server, session: Session) -> None:
    server.answers.clear()
    first, second = await asking(session, 2)
    first.cancel()
    await asyncio.wait({first})
    server.answers.set()
    assert await second == "token-2"
    assert first.cancelled()


async def test_who_waits_for_another_login_has_its_own_deadline(server: Server, session: Session) -> None:
    server.answers.clear()
    (slow,) = await asking(session, 1)
    with pytest.raises(StoreUnavailable, match="log in"):
        await session.token(soon(0.01))
    server.answers.set()
    assert await slow == "token-1"


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Login("user", "secret"))
