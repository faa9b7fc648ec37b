"""Complete revisions, however etcd cuts them."""

from hypothesis import given
from hypothesis import strategies as st

from federation.etcd.watch import Assembler
from federation.store import Change, Revision
from fedmarket.pb.etcd.kv_pb2 import Event, KeyValue
from fedmarket.pb.etcd.rpc_pb2 import WatchResponse


def event(revision: int, key: str, value: bytes | None) -> Event:
    kind = Event.DELETE if value is None else Event.PUT
    return Event(type=kind, kv=KeyValue(key=key.encode(), value=value or b"", mod_revision=revision))


def events_of(revision: Revision) -> list[Event]:
    return [event(revision.revision, change.key, change.value) for change in revision.changes]


changes = st.builds(Change, st.text("abc/", min_size=1, max_size=3), st.none() | st.binary(max_size=3))


@st.composite
def histories(draw: st.DrawFn) -> list[Revision]:
    numbers = sorted(draw(st.sets(st.integers(2, 50), max_size=12)))
    return [Revision(number, draw(st.lists(changes, min_size=1, max_size=5))) for number in numbers]


@st.composite
def responses(draw: st.DrawFn, history: list[Revision]) -> list[WatchResponse]:
    """Send a history as etcd may: responses end between revisions, fragments anywhere."""
    sent: list[WatchResponse] = []
    rest = list(history)
    while rest:
        size = draw(st.integers(1, len(rest)))
        batch, rest = rest[:size], rest[size:]
        events = [event for revision in batch for event in events_of(revision)]
        while events:
            size = draw(st.integers(1, len(events)))
            fragment, events = events[:size], events[size:]
            sent.append(WatchResponse(events=fragment, fragment=bool(events)))
    return sent


@given(st.data())
def test_revisions_come_whole_in_order_and_once_however_they_are_cut(data: st.DataObject) -> None:
    history = data.draw(histories())
    assembler = Assembler(1)
    seen: list[Revision] = []
    for response in data.draw(responses(history)):
        seen += assembler.feed(response)
    assert seen == history


@given(st.data())
def test_what_is_sent_twice_or_is_older_than_the_start_is_left_out(data: st.DataObject) -> None:
    history = data.draw(histories())
    start = data.draw(st.integers(1, 51))
    assembler = Assembler(start)
    seen: list[Revision] = []
    for response in data.draw(responses(history)) + data.draw(responses(history)):
        seen += assembler.feed(response)
    assert seen == [revision for revision in history if revision.revision >= start]


def test_a_revision_is_held_back_until_its_last_fragment() -> None:
    assembler = Assembler(1)
    assert assembler.feed(WatchResponse(events=[event(7, "a", b"1")], fragment=True)) == []
    assert assembler.feed(WatchResponse(events=[event(7, "b", None)], fragment=False)) == [
        Revision(7, [Change("a", b"1"), Change("b", None)])
    ]


def test_a_revision_is_complete_when_the_next_begins_in_the_same_fragment() -> None:
    assembler = Assembler(1)
    response = WatchResponse(events=[event(7, "a", b"1"), event(8, "a", b"2")], fragment=True)
    assert assembler.feed(response) == [Revision(7, [Change("a", b"1")])]


def test_an_answer_to_a_progress_request_completes_nothing() -> None:
    assert Assembler(1).feed(WatchResponse(watch_id=-1)) == []
