"""zone.toml to Config: strict about tables, keys and types; what settings mean together is checked in check.py."""

import dataclasses
import difflib
import math
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from fedmarket.errors import BadInput, ConfigError
from zone_agent.address import Address
from zone_agent.config.check import check
from zone_agent.config.schema import ARRAYS, TABLES, Config, DatastoreSettings, PeerZone, Setting
from zone_agent.config.source import Place, Source

T = TypeVar("T")


def load(file: Path) -> Config:
    """Read and check a zone.toml. Blocking.

    Raises ConfigError that names the file, the table, the key and, where it was found, the line.
    """
    file = file.absolute()
    return _Reader(Source.read(file), file).config()


class _Reader:
    def __init__(self, source: Source, file: Path) -> None:
        self._source = source
        self._file = file

    def config(self) -> Config:
        tables = self._source.parse()
        known = [*TABLES, *ARRAYS]
        for name, content in tables.items():
            if name not in known:
                place = Place(name) if isinstance(content, dict | list) else Place(key=name)
                raise self._unknown(place, name, known)
        settings: dict[str, Any] = {
            name: self._table(cls, tables.get(name, {}), Place(name)) for name, cls in TABLES.items()
        }
        config = Config(
            file=self._file,
            datastores=self._array(DatastoreSettings, tables, "datastore"),
            peers=self._array(PeerZone, tables, "peers"),
            **settings,
        )
        check(config, self._source)
        if not config.datastores:
            default = DatastoreSettings(name="default", path=config.layout.datastores / "default")
            config = dataclasses.replace(config, datastores=(default,))
        return config

    def _array(self, cls: type[T], tables: dict[str, Any], name: str) -> tuple[T, ...]:
        content = tables.get(name, [])
        if not isinstance(content, list):
            raise self._source.error(Place(name), f"is one table of several: write [[{name}]]")
        return tuple(self._table(cls, table, Place(name, index=i)) for i, table in enumerate(content))

    def _table(self, cls: type[T], content: object, place: Place) -> T:
        if not isinstance(content, dict):
            raise self._source.error(place, f"is a table, not {_kind(content)}: write [{place.table}]")
        types = get_type_hints(cls)
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # each is a dataclass
        for key in content:
            if key not in fields:
                raise self._unknown(dataclasses.replace(place, key=key), key, list(fields))
        values: dict[str, Any] = {}
        for key, field in fields.items():
            here = dataclasses.replace(place, key=key)
            if key in content:
                with self._source.blame(here):
                    values[key] = self._convert(content[key], types[key], field.metadata["setting"])
            elif field.default is dataclasses.MISSING:
                raise self._source.error(here, f"is missing: add it ({field.metadata['setting'].doc})")
            elif isinstance(field.default, Path):
                values[key] = self._path(str(field.default))
        return cls(**values)

    def _convert(self, value: Any, wanted: Any, setting: Setting) -> Any:
        """Return `value` as the type of its field. Raises BadInput."""
        if wanted is bool:
            return _typed(value, bool, "true or false")
        if wanted is int:
            return _bounded(_typed(value, int, "a whole number"), setting)
        if wanted is float:
            return _bounded(float(value if type(value) is int else _typed(value, float, "a number")), setting)
        if wanted == tuple[str, ...]:
            return tuple(_text(item, setting) for item in _typed(value, list, "a list of texts"))
        text = _text(value, setting)
        if wanted is str:
            return text
        if not text and type(None) in getattr(wanted, "__args__", ()):
            return None
        return Address.parse(text) if wanted in (Address, Address | None) else self._path(text)

    def _path(self, text: str) -> Path:
        if not text or "\0" in text:
            raise BadInput("it must be a path; a relative one is taken from the directory of this file")
        return self._file.parent / text

    def _unknown(self, place: Place, name: str, known: list[str]) -> ConfigError:
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean `{near[0]}`?" if near else f"remove it, or use one of {', '.join(known)}"
        return self._source.error(place, f"is not a setting of fedmarket: {advice}")


def _typed(value: Any, wanted: type[T], words: str) -> T:
    if type(value) is not wanted:  # isinstance would take true for 1
        raise BadInput(f"it must be {words}, not {_kind(value)}")
    return value


def _text(value: Any, setting: Setting) -> str:
    text = _typed(value, str, "a text in quotes")
    if setting.choices and text not in setting.choices:
        raise BadInput(f"{text!r} is not known: choose {' or '.join(setting.choices)}")
    return text


def _bounded(number: Any, setting: Setting) -> Any:
    low = -math.inf if setting.low is None else setting.low
    high = math.inf if setting.high is None else setting.high
    if not low <= number <= high:  # also what is not a number
        raise BadInput(f"{number} is out of range: choose a number from {low} to {high}")
    return number


def _kind(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")
