"""Every event in every state of a link: each cell of its tables in docs/replication.md, which are this test's data."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from federation.head import unseal_bytes
from federation.keys import HEAD
from federation.link.sink import State
from federation.link.stream import StreamBroken
from federation.tree import Tree
from fedmarket.pb.fedmarket.v1.peer_pb2 import FromSink
from tests.support.federation import key_of
from tests.support.link_events import EVENTS, Step, ways
from tests.support.link_messages import SAID
from tests.support.states import (
    HELD,
    PAUSE_SECONDS,
    PROBE_SECONDS,
    STATES,
    Bench,
    Cell,
    Sight,
    beat,
    cells,
    outcome,
    settle,
    words,
)
from tests.support.virtual_time import VirtualTimeLoop

COLUMNS = ("DOWN", "TAIL", "DIFF", "FORKED", "REFUSED", "SHARED")
AN_HOUR = 3600.0


async def check(cell: Cell, way: Step) -> None:
    async with Bench() as bench:
        if cell.outcome & {"— b", "— c"}:
            await way(bench)
            assert bench.direct.shared == ("— c" in cell.outcome)
            return
        if cell.outcome == {"— a"}:
            await check_no_other_way(bench)
            return
        await way(bench)
        await bench.mark()
        if cell.outcome == {"—"}:
            await check_no_stream(bench)
            return
        await EVENTS[cell.event](bench)
        after = await bench.look()
        arrow = next((token for token in cell.outcome if token.startswith("→")), None)
        if arrow is not None:
            assert after.status.state.name == arrow.removeprefix("→ ")
        told_apart = {arrow, "probe"}  # by the state, and by what follows
        seen = outcome(bench.before, after) | ({"wait"} if bench.waited else set())
        assert seen - told_apart == cell.outcome - told_apart, after.status.last_error
        check_stored(bench.before, after)
        await check_what_follows(cell, bench)


def check_stored(before: Sight, after: Sight) -> None:
    """Whatever happened: what was written is what the peer has signed, or a record that it has dropped."""
    signed = {record for state in STATES for record in state.tree.items()}
    written = after.records.items() - before.records.items()
    assert {(key.removeprefix("lost/1/"), value) for key, value in written} <= signed
    assert after.stored[HEAD] in {before.stored[HEAD], *(state.head.encode() for state in STATES)}


async def check_no_other_way(bench: Bench) -> None:
    """Without a Welcome no message leads out of DOWN, so whoever is in TAIL has had it."""
    for event, message in SAID.items():
        if event.startswith("before the Welcome"):
            await bench.say(message)
    assert (await bench.look()).status.state is State.DOWN


async def check_no_stream(bench: Bench) -> None:
    """No stream is open in this state, and none is opened."""
    with pytest.raises(StreamBroken):
        await bench.say(beat(HELD.head.signed))
    shared = bench.before.status.state is State.SHARED
    await settle(5 if shared else AN_HOUR)  # the peer's heads go on coming where they are read
    assert outcome(bench.before, await bench.look()) == {"ignore"}


async def check_what_follows(cell: Cell, bench: Bench) -> None:
    dials = bench.dials
    if "close" in cell.outcome:
        bench.reachable, bench.store.down = True, False
        await settle(PAUSE_SECONDS)
        assert bench.dials == dials + 1
    elif "probe" in cell.outcome:
        await settle(PROBE_SECONDS)
        assert bench.dials == dials + 1
    elif cell.outcome & {"FORKED", "REFUSED"}:
        await settle(AN_HOUR)
        assert bench.dials == dials
    if bench.peer is not None and (bench.dials > dials or cell.outcome & {"dial", "Hello"}):
        check_hello(bench.heard, (await bench.look()).stored)


def check_hello(heard: Sequence[FromSink], stored: Mapping[str, bytes]) -> None:
    """A Hello says what is stored, and asks for a DIFF if that is not whole, or does not lead to what was heard."""
    hello = next(message.hello for message in reversed(heard) if message.HasField("hello"))
    records = Tree.of({key: value for key, value in stored.items() if key != HEAD and not key.startswith("lost/")})
    head = unseal_bytes(stored[HEAD], key_of(0).public)
    assert hello.have == head.signed
    assert hello.diff == (not head.describes(records) or len(heard) > 1)


LINK = cells(COLUMNS)


@pytest.mark.parametrize(
    ("cell", "way"),
    [pytest.param(cell, way, id=f"{cell} ({way.__name__})") for cell in LINK for way in ways(cell.event, cell.state)],
)
def test_a_link_does_what_the_document_says(cell: Cell, way: Step) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(check(cell, way))


def test_the_document_has_every_event_of_these_tests() -> None:
    assert {cell.event for cell in LINK} == EVENTS.keys()


def test_the_document_explains_every_word_of_its_cells_and_no_other() -> None:
    assert set().union(*(cell.outcome for cell in LINK)) == words("Every event in every state: the link")
