"""zone.toml to Config: strict about tables, keys and types; what settings mean together is checked in check.py."""

import dataclasses
import difflib
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from fedmarket.errors import BadInput, ConfigError
from zone_agent.address import Address
from zone_agent.config.check import Parts, check
from zone_agent.config.environment import Override, overrides
from zone_agent.config.schema import ARRAYS, TABLES, Config, DatastoreSettings, PeerZone, Setting
from zone_agent.config.source import Place, Problem, Source

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What a zone.toml and the environment say."""

    source: Source
    given: frozenset[Place]
    """The settings that stand in the file or the environment; all others have their defaults."""
    parts: Parts
    """The tables that were understood."""
    problems: tuple[Problem, ...]
    """Everything that does not hold."""
    config: Config | None
    """None if there are problems."""


def load(file: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check a zone.toml, and what the environment overrides in it. Blocking.

    Raises ConfigError that names the file, the table, the key and, where it was found, the line; or the variable.
    """
    reading = read(file, environ)
    if reading.config is None:
        raise ConfigError(reading.problems[0].message)
    return reading.config


def read(file: Path, environ: Mapping[str, str] = os.environ) -> Reading:
    """Read a zone.toml as `load` does, and say all that does not hold. Blocking.

    Raises ConfigError if the file cannot be read or is no TOML.
    """
    file = file.absolute()
    overriding, problems = overrides(environ, file)
    source = Source.read(file, {place: override.variable for place, override in overriding.items()})
    reader = _Reader(source, overriding)
    parts = reader.parts()
    problems += [*reader.problems, *check(parts, source)]
    config = None if problems else _config(file, parts)
    return Reading(source, frozenset(reader.given), parts, tuple(problems), config)


def _config(file: Path, parts: Parts) -> Config:
    config = Config(
        file=file, datastores=tuple(parts.datastores.values()), peers=tuple(parts.peers.values()), **parts.tables
    )
    if config.datastores:
        return config
    default = DatastoreSettings(name="default", path=config.layout.datastores / "default")
    return dataclasses.replace(config, datastores=(default,))


class _Reader:
    """Reads what it can, and notes what does not hold."""

    def __init__(self, source: Source, overriding: Mapping[Place, Override]) -> None:
        self._source = source
        self._overriding = overriding
        self.problems: list[Problem] = []
        self.given: set[Place] = set()

    def parts(self) -> Parts:
        """Return the tables in which everything holds by itself. Raises ConfigError if the file is no TOML."""
        tables = self._source.parse()
        known = [*TABLES, *ARRAYS]
        for name, content in tables.items():
            if name not in known:
                self._unknown(Place(name) if isinstance(content, dict | list) else Place(key=name), name, known)
        single: dict[str, object] = {
            name: self._table(cls, tables.get(name, {}), Place(name)) for name, cls in TABLES.items()
        }
        return Parts(
            {name: table for name, table in single.items() if table is not None},
            self._array(DatastoreSettings, tables.get("datastore", []), "datastore"),
            self._array(PeerZone, tables.get("peers", []), "peers"),
        )

    def _array(self, cls: type[T], content: object, name: str) -> dict[int, T]:
        if not isinstance(content, list):
            self._problem(Place(name), f"is one table of several: write [[{name}]]")
            return {}
        read = {i: self._table(cls, table, Place(name, index=i)) for i, table in enumerate(content)}
        return {index: table for index, table in read.items() if table is not None}

    def _table(self, cls: type[T], content: object, place: Place) -> T | None:
        """Return a table; None if something in it does not hold."""
        if not isinstance(content, dict):
            self._problem(place, f"is a table, not {_kind(content)}: write [{place.table}]")
            return None
        before = len(self.problems)
        types = get_type_hints(cls)
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # each is a dataclass
        content = content | self._overridden(place, fields)
        for key in content:
            if key not in fields:
                self._unknown(dataclasses.replace(place, key=key), key, list(fields))
        values: dict[str, Any] = {}
        for key, field in fields.items():
            here = dataclasses.replace(place, key=key)
            setting: Setting = field.metadata["setting"]
            if key in content:
                self.given.add(here)
                try:
                    values[key] = self._convert(content[key], types[key], setting)
                except BadInput as problem:
                    self._problem(here, f"does not hold: {problem.message}")
            elif field.default is dataclasses.MISSING:
                self._problem(here, f"is missing: add it ({setting.doc})")
            elif isinstance(field.default, Path):
                values[key] = self._path(str(field.default))
        return cls(**values) if len(self.problems) == before else None

    def _overridden(self, place: Place, keys: Iterable[str]) -> dict[str, object]:
        places = {key: dataclasses.replace(place, key=key) for key in keys}
        return {key: self._overriding[at].value for key, at in places.items() if at in self._overriding}

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
            raise BadInput("it must be a path; a relative one is taken from the directory of zone.toml")
        return self._source.file.parent / text

    def _unknown(self, place: Place, name: str, known: list[str]) -> None:
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean `{near[0]}`?" if near else f"remove it, or use one of {', '.join(known)}"
        self._problem(place, f"is not a setting of fedmarket: {advice}")

    def _problem(self, place: Place, text: str) -> None:
        self.problems.append(self._source.problem(place, text))


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
