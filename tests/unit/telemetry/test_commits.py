"""The trace that a commit carries: from the change to the peer's apply, and into nothing that is stored or signed."""

import asyncio

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from federation.link.ring import RingEntry
from federation.link.sink import Sink, Write
from fedmarket import telemetry
from fedmarket.pb.fedmarket.v1.peer_pb2 import FromSource
from fedmarket.telemetry import MAX_TRACES
from tests.support.federation import Zone, key_of
from tests.support.states import HELD, ME, NEXT, PEER, commit_of, welcome

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GOOD = f"00-{TRACE}-00f067aa0ba902b7-01"


def newest(zone: Zone) -> RingEntry:
    epoch, seq = zone.own.pair
    entry = zone.ring.after((epoch, seq - 1))
    assert entry is not None
    return entry


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


async def test_a_commit_carries_the_span_that_asked_and_the_peers_apply_links_to_it(
    spans: InMemorySpanExporter,
) -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await tokyo.caught_up_with(berlin)
        with telemetry.span("request"):
            await berlin.create("market")
        await tokyo.caught_up_with(berlin)
        (request,), (commit,) = named(spans, "request"), named(spans, "commit")
        assert request.context is not None
        assert commit.parent is not None
        assert commit.parent.span_id == request.context.span_id
        (carried,) = newest(berlin).message.traces
        assert f"-{request.context.trace_id:032x}-{request.context.span_id:016x}-" in carried
    (apply,) = named(spans, "apply")
    assert [link.context.span_id for link in apply.links] == [request.context.span_id]
    assert apply.parent is None
    assert apply.attributes is not None
    assert apply.attributes["fedmarket.home"] == 0


async def test_changes_that_share_a_commit_are_all_named_up_to_the_limit(spans: InMemorySpanExporter) -> None:
    async def ask(name: str) -> None:
        with telemetry.span("request"):
            await berlin.create(name)

    async with Zone(0) as berlin:
        await asyncio.gather(*(ask(f"m{n}") for n in range(MAX_TRACES + 4)))
        carried = newest(berlin).message.traces
    assert len(carried) == len(set(carried)) == MAX_TRACES
    (commit,) = named(spans, "commit")
    assert len(commit.links) == MAX_TRACES - 1


async def test_a_change_that_nobody_traces_makes_no_span_in_either_zone(spans: InMemorySpanExporter) -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await berlin.create("market")
        await tokyo.caught_up_with(berlin)
        assert not newest(berlin).message.traces
    assert spans.get_finished_spans() == ()


async def test_nothing_that_is_stored_or_signed_has_the_trace(spans: InMemorySpanExporter) -> None:
    async with Zone(0) as berlin, Zone(100) as tokyo:
        tokyo.follow(berlin)
        await tokyo.caught_up_with(berlin)
        with telemetry.span("request") as _:
            traceparent = telemetry.traceparent()
            await berlin.create("market")
        await tokyo.caught_up_with(berlin)
        assert list(newest(berlin).message.traces) == [traceparent]
        trace = traceparent.split("-")[1]
        for zone in (berlin, tokyo):
            items = (await zone.store.snapshot("")).items
            assert items
            for item in items:
                assert trace.encode() not in item.value
                assert bytes.fromhex(trace) not in item.value
        assert trace.encode() not in newest(berlin).message.head.SerializeToString()


def written(*traces: str) -> Write:
    """Return what a sink stores of the next commit, if it comes with these traces."""
    sink = Sink(ME, PEER, key_of(PEER).public, HELD.head, HELD.tree)
    sink.hello()
    sink.receive(welcome(HELD.head.signed))
    message = FromSource(commit=commit_of(NEXT))
    message.commit.traces.extend(traces)
    assert sink.receive(FromSource.FromString(message.SerializeToString())) == []
    write = sink.flush()
    assert write is not None
    return write


@pytest.mark.parametrize(
    "traces",
    [(), (GOOD,), ("garbage", ""), (f"ff{GOOD[2:]}",), (f"{GOOD[:-1]}0",), ("x" * 100_000,), (GOOD,) * 100],
    ids=["none", "one", "malformed", "no version", "not recorded", "long", "many times the same"],
)
def test_what_is_stored_of_a_commit_does_not_depend_on_its_traces(traces: tuple[str, ...]) -> None:
    write, plain = written(*traces), written()
    assert (write.puts, write.deletes, write.lost, write.head) == (plain.puts, plain.deletes, plain.lost, plain.head)
    assert write.traces == ((GOOD,) if GOOD in traces else ())


def test_no_more_traces_are_taken_than_a_commit_carries() -> None:
    many = [f"00-{TRACE}-{number:016x}-01" for number in range(1, 1000)]
    assert written(*many).traces == tuple(many[:MAX_TRACES])
