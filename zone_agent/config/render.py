"""The settings as texts for people: a commented zone.toml, and the page docs/configuration.md."""

import dataclasses
import json
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast, get_type_hints

from zone_agent.address import Address
from zone_agent.config.environment import variable_of
from zone_agent.config.schema import ARRAYS, TABLES, Setting
from zone_agent.config.source import Place

WIDTH = 100

Values = Mapping[str, object]


def zone_toml(tables: Mapping[str, Values], datastores: Iterable[Values]) -> str:
    """Return a commented zone.toml: what is given stands in it, every other setting as a comment with its default."""
    parts = [
        "# A zone of fedmarket. What is commented out shows its default.\n"
        "# Relative paths are taken from the directory of this file. A running agent takes up\n"
        "# what it can of a change on `fedmarket agent reload`; the rest holds from its next start."
    ]
    parts += [_table(cls, f"[{name}]", tables.get(name, {})) for name, cls in TABLES.items()]
    parts += [_table(ARRAYS["datastore"], "[[datastore]]", values) for values in datastores]
    parts.append(_commented_out(_table(ARRAYS["peers"], "[[peers]]", {})))
    return "\n\n".join(parts) + "\n"


def peers_toml(zone_id: int, address: Address, key: str) -> str:
    """Return the table that makes another zone follow this one."""
    return f"[[peers]]\nid = {zone_id}\naddress = {toml(address)}\nkey = {toml(key)}\n"


def configuration_page() -> str:
    """Return the page docs/configuration.md."""
    parts = [
        "# zone.toml\n\n"
        "<!-- Generated from zone_agent/config/schema.py by `python -m zone_agent.cli.docs`: change it there. -->\n\n"
        "The settings of one zone's agent. `fedmarket agent init` writes a commented one. Unknown tables and keys are "
        "errors, so that a typing error cannot pass for a setting. Relative paths are taken from the directory of "
        "the file.\n\n"
        "A variable of the environment overrides the key that stands beside it, with the same checks; items of a list "
        "are separated by commas. Arrays of tables are read from the file only. `fedmarket config show` says where "
        "each setting comes from, `fedmarket config check` all that is wrong; [operations.md](operations.md) says what "
        "a running agent takes up when it is told to reload."
    ]
    for names, header in ((TABLES, "[{}]"), (ARRAYS, "[[{}]]")):
        parts += [_section(cls, name, header.format(name)) for name, cls in names.items()]
    return "\n\n".join(parts) + "\n"


def _table(cls: type, header: str, values: Values) -> str:
    lines = [*_comment(cls.__doc__ or ""), header]
    for field in dataclasses.fields(cls):
        lines += ["", *_comment(_setting(field).doc)]
        if field.name in values:
            lines.append(f"{field.name} = {toml(values[field.name])}")
        else:
            lines.append(f"# {field.name} = {_default(field)}")
    return "\n".join(lines)


def _section(cls: type, table: str, header: str) -> str:
    types = get_type_hints(cls)
    columns = ["key", "type", "default", "meaning", *(["variable"] if table in TABLES else [])]
    lines = [f"## `{header}`", "", cls.__doc__ or "", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for field in dataclasses.fields(cls):
        setting = _setting(field)
        required = field.default is dataclasses.MISSING
        default = "required" if required else setting.shown_default or f"`{_default(field)}`"
        cells = [f"`{field.name}`", _type(types[field.name], setting), default, setting.doc]
        if table in TABLES:
            cells.append(f"`{variable_of(Place(table, field.name))}`")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _setting(field: "dataclasses.Field[Any]") -> Setting:
    return cast(Setting, field.metadata["setting"])


def _default(field: "dataclasses.Field[Any]") -> str:
    return "..." if field.default is dataclasses.MISSING else toml(field.default)


def toml(value: object) -> str:
    """Return a TOML value. JSON's form of texts, numbers, truth and lists is TOML's too."""
    if value is None:
        return '""'
    if isinstance(value, Path | Address):
        value = str(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _type(wanted: Any, setting: Setting) -> str:
    names = {bool: "true or false", int: "number", float: "number", str: "text", tuple[str, ...]: "list of texts"}
    name = names.get(wanted) or ("host:port" if wanted in (Address, Address | None) else "path")
    if setting.choices:
        name = " or ".join(f"`{choice}`" for choice in setting.choices)
    if setting.low is not None and setting.high is not None:
        name += f", {setting.low:g} to {setting.high:g}"
    return name


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), WIDTH)]


def _commented_out(text: str) -> str:
    return "\n".join(line if not line or line.startswith("#") else f"# {line}" for line in text.splitlines())
