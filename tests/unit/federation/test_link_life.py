"""How a link lives: what it says of a silent peer, when it dials again, and what it does about its own etcd."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from federation.link.link import LinkSettings
from federation.link.sink import State
from federation.memory import Moment
from federation.store import StoreUnavailable, Txn
from fedmarket.errors import NoSpace
from fedmarket.pb.fedmarket.v1.peer_pb2 import FromSource, Refuse
from fedmarket.retry import Backoff
from tests.support.federation import BACKOFF, End, Zone, names, pipe

BOUND = 10.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not condition():
            await asyncio.sleep(0.005)


class Dialled:
    """A peer that answers every dial with one message, or hangs up at once."""

    def __init__(self, answer: FromSource | None) -> None:
        self.answer = answer
        self.times = 0

    @asynccontextmanager
    async def dial(self) -> AsyncGenerator[End[Any, Any], None]:
        self.times += 1
        mine, its = pipe()
        if self.answer is not None:
            await its.send(self.answer)
        await its._outgoing.put(None)
        yield mine


def refusal(code: str) -> FromSource:
    return FromSource(refuse=Refuse(code=code, text="for a reason"))


async def test_a_peer_that_hangs_up_without_a_word_three_times_may_not_trust_us() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        peer = Dialled(None)
        link = tokyo.follow(berlin)
        link._dial = peer.dial
        await until(lambda: link.status.last_error.startswith("down, perhaps not trusted there"))
        assert link.status.state is State.DOWN
        assert peer.times >= 3
        peer.answer = refusal("busy")
        await until(lambda: link.status.last_error.startswith("the peer refused (busy)"))


async def test_a_refused_link_is_dialled_again_only_when_a_person_says_so() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        peer = Dialled(refusal("zone"))
        link = tokyo.follow(berlin)
        link._dial = peer.dial
        await until(lambda: link.status.state is State.REFUSED)
        before = peer.times
        await asyncio.sleep(0.1)
        assert peer.times == before
        link.retry()
        await until(lambda: peer.times == before + 1)


async def test_a_peer_of_another_protocol_is_asked_again_by_and_by() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        peer = Dialled(refusal("protocol"))
        link = tokyo.follow(berlin)
        link._dial, link._settings = peer.dial, LinkSettings(backoff=BACKOFF, probe_seconds=0.02)
        await until(lambda: link.status.state is State.REFUSED)
        before = peer.times
        await until(lambda: peer.times >= before + 2)
        assert link.status.state is State.REFUSED


async def test_a_link_that_is_down_is_dialled_at_once_when_a_person_says_so() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.cut()
        link = tokyo.follow(berlin)
        link._settings = LinkSettings(backoff=Backoff(first_seconds=3600, longest_seconds=3600))
        await until(lambda: link.status.last_error.endswith("not reachable"))
        tokyo.heal()
        link.retry()
        await tokyo.caught_up_with(berlin)


async def test_nothing_is_read_from_the_peer_while_our_own_etcd_refuses() -> None:
    refusing = True

    def fault(txn: Txn, moment: Moment) -> None:
        if refusing and moment == "before" and any("/replica/" in key for key in txn.puts):
            raise NoSpace("etcd is full")

    async with Zone(0) as berlin, Zone(100) as tokyo:
        link = tokyo.follow(berlin)
        await tokyo.caught_up_with(berlin)
        tokyo.store.fault = fault
        await asyncio.gather(*(berlin.create(f"m{n}") for n in range(20)))
        await until(lambda: link.status.last_error == "etcd is full")
        assert link.status.state is State.TAIL
        streams = set(tokyo._streams)
        assert names(tokyo.replicas[0]) == {}
        refusing = False
        await tokyo.caught_up_with(berlin)
        assert tokyo._streams == streams, "the stream has waited"
        assert len(names(tokyo.replicas[0])) == 20


async def test_a_write_whose_answer_was_lost_is_not_done_twice() -> None:
    lost = 1

    def fault(txn: Txn, moment: Moment) -> None:
        nonlocal lost
        if lost and moment == "after" and any("/replica/" in key for key in txn.puts):
            lost -= 1
            raise StoreUnavailable("no answer")

    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await tokyo.caught_up_with(berlin)
        tokyo.store.fault = fault
        await berlin.create("m")
        await tokyo.caught_up_with(berlin)
        assert list(names(tokyo.replicas[0]).values()) == ["m"]
        assert lost == 0


async def test_a_relist_at_the_same_head_leaves_the_followers_in_tail() -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await berlin.create("one")
        await tokyo.caught_up_with(berlin)
        tokyo.cut()
        await berlin.create("two")
        held, watching = len(berlin.ring._entries), berlin.own._watching
        berlin.own.doubt()
        await until(lambda: berlin.own._watching not in (None, watching))
        assert len(berlin.ring._entries) == held
