"""Where settings come from: the text of a zone.toml, with the lines that tomllib does not keep, and the environment."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmarket.errors import ConfigError

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
class Origin:
    """Where a setting stands: in the file, perhaps at a known line, or in a variable of the environment."""

    file: Path
    line: int | None = None
    variable: str = ""

    def __str__(self) -> str:
        if self.variable:
            return f"{self.variable} in the environment"
        return f"{self.file}, line {self.line}" if self.line else str(self.file)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not hold, and where it stands."""

    origin: Origin
    text: str
    """What does not hold, and what to do: `[http] url is not a usable URL: give ...`."""

    @property
    def message(self) -> str:
        """The one sentence."""
        return f"{self.origin}: {self.text}"


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read, and the variables that override what stands in it."""

    file: Path
    text: str
    variables: Mapping[Place, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path, variables: Mapping[Place, str]) -> "Source":
        """Read a zone.toml. Blocking. Raises ConfigError."""
        try:
            return cls(file, file.read_text(encoding="utf-8"), variables)
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

    def problem(self, place: Place, text: str) -> Problem:
        """Return the problem of a setting; the text goes on after its name."""
        return Problem(self.origin(place), f"{place} {text}")

    def origin(self, place: Place) -> Origin:
        """Return where a setting stands; of one that stands nowhere, its table."""
        if place in self.variables:
            return Origin(self.file, variable=self.variables[place])
        return Origin(self.file, self._line(place))

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
