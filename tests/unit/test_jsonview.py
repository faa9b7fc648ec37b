import json
import math
from datetime import UTC, datetime

import pytest
from google.protobuf import descriptor_pb2, struct_pb2, type_pb2
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.jsonview import enum_word, view
from fedmarket.pb.fedmarket.v1 import app_pb2, common_pb2, head_pb2, image_pb2, market_pb2, record_pb2, zone_pb2

INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
LINK_STATES = zone_pb2.LinkState.values()
TEXT = st.text(st.characters(codec="utf-8"))


@pytest.mark.parametrize(
    "message",
    [app_pb2.App(), image_pb2.Image(), image_pb2.Datastore(), market_pb2.Market(), zone_pb2.Zone(), zone_pb2.Link()],
    ids=lambda message: message.DESCRIPTOR.name,
)
def test_every_field_is_there_though_nothing_is_set(message: Message) -> None:
    shown = view(message)

    assert list(shown) == [field.name for field in message.DESCRIPTOR.fields]
    assert json.loads(json.dumps(shown)) == shown


@given(number=INT32, size=UINT64, name=TEXT, attributes=st.dictionaries(TEXT, TEXT), age=st.floats())
def test_values_keep_their_kind(number: int, size: int, name: str, attributes: dict[str, str], age: float) -> None:
    market = json.loads(json.dumps(view(market_pb2.Market(id=number, name=name, total_mb=size, attributes=attributes))))
    link = view(zone_pb2.Link(age_seconds=age))

    assert (market["id"], market["name"], market["total_mb"]) == (number, name, size)
    assert market["attributes"] == attributes
    assert link["age_seconds"] == (age if math.isfinite(age) else None)


@given(time_ms=INT64, root=st.binary(), kinds=st.lists(TEXT))
def test_bytes_are_hex_and_repeated_messages_are_arrays(time_ms: int, root: bytes, kinds: list[str]) -> None:
    head = head_pb2.Head(time_ms=time_ms, root=root, next_ids=[head_pb2.NextId(kind=kind, next=1) for kind in kinds])

    shown = view(head)

    assert shown["time_ms"] == time_ms
    assert shown["root"] == root.hex()
    assert shown["next_ids"] == [{"kind": kind, "next": 1} for kind in kinds]


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_times_are_rfc_3339_in_utc(moment: datetime) -> None:
    app = app_pb2.App()
    app.registered.FromDatetime(moment)

    shown = view(app)["registered"]

    assert isinstance(shown, str)
    assert shown.endswith("Z")
    assert datetime.fromisoformat(shown) == moment


def test_what_is_not_set_is_null_and_what_is_set_to_nothing_is_not() -> None:
    assert view(app_pb2.App())["registered"] is None
    assert view(zone_pb2.Link())["here"] is None
    assert view(zone_pb2.Link(here=zone_pb2.HeadSummary()))["here"] == {"epoch": 0, "seq": 0, "root": "", "count": 0}
    assert view(common_pb2.Ref()) == {"id": None, "name": None}
    assert view(common_pb2.Ref(id=0)) == {"id": 0, "name": None}
    assert view(common_pb2.Ref(name="")) == {"id": None, "name": ""}


@pytest.mark.parametrize(
    ("message", "field", "word"),
    [
        (app_pb2.App(state=record_pb2.APP_STATE_READY), "state", "ready"),
        (app_pb2.App(type=record_pb2.APP_TYPE_SERVICE_TEMPLATE), "type", "service_template"),
        (image_pb2.Image(state=record_pb2.IMAGE_STATE_LOCKED_USED_PERS), "state", "locked_used_pers"),
        (image_pb2.Image(), "type", "os"),
        (market_pb2.Market(), "scope", "unspecified"),
        *((zone_pb2.Link(state=LINK_STATES[n]), "state", word) for n, word in enumerate(
            ["down", "tail", "diff", "forked", "refused", "shared"])),
    ],
)  # fmt: skip
def test_enums_are_words(message: Message, field: str, word: str) -> None:
    assert view(message)[field] == word


def test_a_number_that_is_not_known_is_told_as_such() -> None:
    newer = app_pb2.App()
    newer.MergeFromString(bytes([7 << 3, 99]))

    assert view(newer)["state"] == "unknown-99"


def test_no_two_values_of_an_enum_share_a_word() -> None:
    for enum in (zone_pb2.LinkState, record_pb2.ImageState, record_pb2.AppState, record_pb2.MarketState):
        words = [enum_word(enum.DESCRIPTOR, number) for number in enum.values()]
        assert len(set(words)) == len(words)
        assert all(word == word.lower() and not word.startswith("unknown") for word in words)


def test_other_kinds_of_fields_are_shown_too() -> None:
    """Kinds that our own messages do not have yet: optional scalars, repeated enums and scalars, maps of messages."""
    option = descriptor_pb2.FieldOptions(targets=[descriptor_pb2.FieldOptions.TARGET_TYPE_FILE])
    assert view(option)["targets"] == ["target_type_file"]
    assert view(descriptor_pb2.FieldDescriptorProto())["number"] is None
    assert view(descriptor_pb2.FileDescriptorProto(public_dependency=[1, 2]))["public_dependency"] == [1, 2]
    shown = view(struct_pb2.Struct(fields={"a": struct_pb2.Value(bool_value=True)}))["fields"]
    assert isinstance(shown, dict)
    assert isinstance(shown["a"], dict)
    assert shown["a"]["bool_value"] is True
    assert view(type_pb2.Field(kind=type_pb2.Field.TYPE_INT64))["kind"] == "type_int64"
