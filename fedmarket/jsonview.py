"""A message of the native API as JSON for scripts: what `--json` prints.

Every field is there under its proto name. Unlike protobuf's own JSON form, 64-bit numbers are numbers, enums are
lower-case words, and nothing is left out because it is zero.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def view(message: Message) -> dict[str, Json]:
    """Return the message as an object.

    A message or an alternative that is not set is null, and so is a float that JSON cannot write (NaN, infinity).
    A map is an object, bytes are hex, a Timestamp is RFC 3339 in UTC.
    """
    return {field.name: _field(message, field) for field in _fields(message.DESCRIPTOR)}


def enum_word(enum: EnumDescriptor, number: int) -> str:
    """Return a value's name without the prefix of its enum, in lower case: APP_STATE_READY is `ready`.

    A number that this version does not know is `unknown-<number>`.
    """
    value = enum.values_by_number.get(number)
    if value is None:
        return f"unknown-{number}"
    return value.name.removeprefix(f"{_HUMP.sub('_', enum.name).upper()}_").lower()


def _field(message: Message, field: FieldDescriptor) -> Json:
    value: Any = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        of = next(part for part in _fields(field.message_type) if part.name == "value")
        items = cast(Mapping[Any, Any], value)
        return {_key(key): _value(items[key], of) for key in sorted(items)}
    if field.is_repeated:
        return [_value(item, field) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(value, field)


def _value(value: Any, field: FieldDescriptor) -> Json:
    if field.enum_type is not None:
        return enum_word(field.enum_type, value)
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Message):
        return view(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return cast(Json, value)


def _key(key: bool | int | str) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _fields(descriptor: Any) -> Sequence[FieldDescriptor]:
    # A union of two equal types, of the two runtimes of protobuf, in the type stubs.
    return cast(Sequence[FieldDescriptor], descriptor.fields)
