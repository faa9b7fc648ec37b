"""What a command prints on stdout: JSON for scripts, tables for people. Both show the same words."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from fedmarket.jsonview import view
from fedmarket.units import MIB, human_duration, human_size

NOTHING = "-"
UNBOUNDED_WIDTH = 100_000
"""Of a table that no terminal shows: a file or a pipe gets whole lines."""

Row = dict[str, Any]
"""A message as `--json` shows it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a list."""

    header: str
    cell: Callable[[Row], str]
    right: bool = False


def column(header: str, key: str) -> Column:
    """Return a column that shows a field as it is."""
    return Column(header, lambda row: plain(row[key]))


def number(header: str, key: str) -> Column:
    """Return a column of numbers."""
    return Column(header, lambda row: plain(row[key]), right=True)


def size(header: str, key: str) -> Column:
    """Return a column of sizes, from bytes."""
    return Column(header, lambda row: human_size(row[key]), right=True)


def time(header: str, key: str) -> Column:
    """Return a column of times, shown in the local zone."""
    return Column(header, lambda row: local_time(row[key]))


def capacity(row: Row) -> str:
    """Show the total of a market or datastore; `-` where it is not known."""
    return human_size(row["total_mb"] * MIB) if row["total_mb"] else NOTHING


def available(row: Row) -> str:
    """Show what part of a market or datastore is free."""
    return f"{round(100 * row['free_mb'] / row['total_mb'])}%" if row["total_mb"] else NOTHING


def head(summary: Row | None) -> str:
    """Show a head by its place."""
    return NOTHING if summary is None else f"{summary['epoch']}/{summary['seq']}"


def age(seconds: float | None) -> str:
    """Show how old a copy is; below zero: it was never current."""
    return "never" if seconds is None or seconds < 0 else human_duration(seconds)


def plain(value: object) -> str:
    """Return a value as text that can do nothing to a terminal: texts come from other zones too."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(c if c.isprintable() else " " for c in str(value))


def local_time(text: str | None) -> str:
    """Show an RFC 3339 time in the local zone, to the second."""
    return NOTHING if text is None else f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"


@dataclass(frozen=True, slots=True)
class Output:
    """Prints the results of one command."""

    as_json: bool

    def table(self, messages: Iterable[Message], columns: Sequence[Column]) -> None:
        """Print a list: an array, or a table."""
        self.rows([view(message) for message in messages], columns)

    def rows(self, rows: Sequence[Row], columns: Sequence[Column]) -> None:
        """Print a list of what is no message: an array, or a table."""
        if self.as_json:
            _print_json(rows)
        else:
            _print_table(rows, columns)

    def show(self, message: Message, **more: str) -> None:
        """Print one thing: an object, or a line per field. `more` is shown as further fields."""
        if self.as_json:
            _print_json(view(message) | more)
        else:
            lines = [*_lines(message), *((_label(key), plain(value)) for key, value in more.items())]
            width = max(len(label) for label, _ in lines)
            print("\n".join(f"{label:<{width}} : {text}".rstrip() for label, text in lines))

    def done(self, sentence: str, **facts: object) -> None:
        """Print what was done: the facts as an object, or the sentence."""
        if self.as_json:
            _print_json(facts)
        else:
            print(sentence)


def _print_json(value: object) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    print()


def _print_table(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    # rich takes longer to import than most commands take to run, and scripts do without it.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else UNBOUNDED_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for each in columns:
        table.add_column(each.header, justify="right" if each.right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(each.cell(row)) for each in columns))
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _lines(message: Message) -> list[tuple[str, str]]:
    """Return label and text of every field."""
    row: Row = dict(view(message))
    lines = []
    for field in cast(Sequence[FieldDescriptor], message.DESCRIPTOR.fields):
        value = row[field.name]
        if isinstance(value, dict) and "seq" not in value:
            lines.append((_label(field.name), "" if value else NOTHING))
            lines += [(f"  {plain(key)}", plain(item)) for key, item in value.items()]
        else:
            lines.append((_label(field.name), _text(field, value)))
    return lines


def _text(field: FieldDescriptor, value: Any) -> str:
    if isinstance(value, dict):
        return f"{head(value)}, {value['count']} records, root {value['root']}"
    if field.message_type is not None and field.message_type.full_name == Timestamp.DESCRIPTOR.full_name:
        return local_time(value)
    if field.name.endswith("_bytes"):
        return f"{human_size(value)} ({value})"
    if field.name.endswith("_mb"):
        return human_size(value * MIB)
    if field.name.endswith("_seconds"):
        return age(value)
    if value == -1:
        return NOTHING
    return plain(value)


def _label(name: str) -> str:
    for unit in ("_bytes", "_mb", "_seconds"):
        name = name.removesuffix(unit)
    return name.replace("_", " ").upper()
