"""The text of a zone.toml, and where in it a setting stands: tomllib keeps no line numbers."""

import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmarket.errors import BadInput, ConfigError

_HEADER = re.compile(r"\s*\[\[?\s*\"?([A-Za-z0-9_-]+)\"?\s*\]\]?")
_KEY = re.compile(r"\s*\"?([A-Za-z0-9_-]+)\"?\s*=")


@dataclass(frozen=True, slots=True)
class Place:
    """A table of the file, or a key in it; `index` tells the tables of an array apart.

    No table: a key that stands before all tables.
    """

    table: str = ""
    key: str = ""
    index: int = 0

    def __str__(self) -> str:
        return f"[{self.table}] {self.key}".strip() if self.table else self.key


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read."""

    file: Path
    text: str

    @classmethod
    def read(cls, file: Path) -> "Source":
        """Read a zone.toml. Blocking. Raises ConfigError."""
        try:
            return cls(file, file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(
                f"{file} is not there: make a zone with `fedmarket agent init`, or give its path"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
        except OSError as error:
            raise ConfigError(f"{file} cannot be read ({error.strerror}): check the path and its mode") from error

    def parse(self) -> dict[str, Any]:
        """Return the tables as TOML has them. Raises ConfigError, with the line, if it is not TOML."""
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{self.file} is not TOML: {error}; correct it there") from error

    def error(self, place: Place, problem: str) -> ConfigError:
        """Return a ConfigError that names file, line (where found), table and key."""
        line = self._line(place)
        where = f"{self.file}, line {line}" if line else str(self.file)
        return ConfigError(f"{where}: {place} {problem}")

    @contextmanager
    def blame(self, place: Place) -> Iterator[None]:
        """Turn a BadInput that is raised inside into an error of the setting at `place`."""
        try:
            yield
        except BadInput as problem:
            raise self.error(place, f"does not hold: {problem.message}") from problem

    def _line(self, place: Place) -> int | None:
        """Return the line of a key, or else of its table's header; None where neither is found."""
        here, top, index, header = not place.table, True, -1, None
        for number, line in enumerate(self.text.splitlines(), start=1):
            if match := _HEADER.match(line):
                top = False
                index += match[1] == place.table
                here = match[1] == place.table and index == place.index
                header = number if here else header
            elif (match := _KEY.match(line)) and here and match[1] == place.key:
                return number
            elif match and top and match[1] == place.table:
                header = number  # what should be a table is written as a key
        return header
