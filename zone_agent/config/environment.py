"""Settings in the environment: FEDMARKET_<TABLE>_<KEY> overrides a key of a single table of zone.toml."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from zone_agent.config.schema import ARRAYS, TABLES
from zone_agent.config.source import Origin, Place, Problem

PREFIX = "FEDMARKET_"

_WHOLE = re.compile(r"[+-]?[0-9]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Override:
    """A variable that stands for a setting."""

    variable: str
    value: object
    """As TOML would give it; where the text cannot be of the setting's type, the text."""


def variable_of(place: Place) -> str:
    """Return the variable that overrides a setting."""
    return f"{PREFIX}{place.table}_{place.key}".upper()


def overrides(environ: Mapping[str, str], file: Path) -> tuple[dict[Place, Override], list[Problem]]:
    """Return what the environment says of settings, and what in it looks like a setting and is none."""
    known = {
        variable_of(Place(table, field.name)): (Place(table, field.name), get_type_hints(cls)[field.name])
        for table, cls in TABLES.items()
        for field in fields(cls)
    }
    found: dict[Place, Override] = {}
    problems: list[Problem] = []
    for variable, text in sorted(environ.items()):
        if variable in known:
            place, wanted = known[variable]
            found[place] = Override(variable, _value(text, wanted))
        elif wrong := _not_a_setting(variable, list(known)):
            problems.append(Problem(Origin(file, variable=variable), wrong))
    return found, problems


def _not_a_setting(variable: str, known: list[str]) -> str:
    """Return what is wrong with a variable that begins like a setting; empty: it does not, and is not for us."""
    for array in ARRAYS:
        if variable.startswith(f"{PREFIX}{array}_".upper()):
            return f"[[{array}]] is read from the file only: write it there, and unset {variable}"
    if not variable.startswith(tuple(f"{PREFIX}{table}_".upper() for table in TABLES)):
        return ""
    near = difflib.get_close_matches(variable, known, n=1)
    advice = f"did you mean {near[0]}?" if near else "unset it"
    return f"{variable} is not a setting of fedmarket: {advice}"


def _value(text: str, wanted: Any) -> object:
    if wanted is bool:
        return {"true": True, "false": False}.get(text, text)
    if wanted in (int, float) and _WHOLE.fullmatch(text):
        return int(text)
    if wanted is float:
        try:
            return float(text)
        except ValueError:
            return text
    if wanted == tuple[str, ...]:
        return [part.strip() for part in text.split(",")] if text else []
    return text
