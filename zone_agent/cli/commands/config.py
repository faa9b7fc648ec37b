"""`fedmarket config`: what a zone.toml says, and whether it holds. No client commands: they need no agent."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmarket.errors import ConfigError
from zone_agent.cli.groups import group
from zone_agent.config.load import Reading, read
from zone_agent.config.render import toml
from zone_agent.config.schema import ARRAYS, TABLES, Config
from zone_agent.config.source import Place, Problem

commands = group()

BAD_INPUT = 2
DEFAULT = "default"
WIDTH = 72
"""Where the origins begin at the latest, but for settings that are longer."""

File = Annotated[Path, typer.Argument(metavar="[FILE]", help="The zone.toml. Without: the one in this directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@commands.command("check")
def check(file: File = Path("zone.toml"), as_json: Json = False) -> None:
    """Say all that is wrong with a zone.toml, with the files it names, and with what the environment overrides in it.

    One line each, and exit status 2. Nothing is started or changed. Ports are looked at unless the zone's agent runs.
    """
    from zone_agent.config.files import check_files, check_ports  # noqa: PLC0415 - a --help has no need of all that
    from zone_agent.presence import agent_of  # noqa: PLC0415 - as above

    file = file.absolute()
    running = agent_of(file)
    problems = list[Problem]()
    try:
        reading = read(file)
    except ConfigError as error:
        messages = [error.message]
    else:
        problems += [*reading.problems, *check_files(reading.parts, reading.source)]
        if running is None:
            problems += check_ports(reading.parts, reading.source)
        problems.sort(key=_position)
        messages = [problem.message for problem in problems]
    if as_json:
        places = [(problem.origin.line, problem.origin.variable) for problem in problems] or [(None, "")]
        found = [
            {"message": message, "line": line, "variable": variable}
            for message, (line, variable) in zip(messages, places, strict=False)
        ]
        typer.echo(json.dumps({"file": str(file), "agent_pid": running, "problems": found}, indent=2))
    else:
        for message in messages:
            typer.echo(message)
        if not messages:
            typer.echo(f"{file} holds{f'; its agent runs (process {running}) and has its ports' if running else ''}.")
    if messages:
        raise typer.Exit(BAD_INPUT)


@commands.command("show")
def show(file: File = Path("zone.toml"), as_json: Json = False) -> None:
    """Show every setting as it would hold, and where it comes from: the default, a line of the file, a variable."""
    reading = read(file)
    if reading.config is None:
        raise ConfigError(reading.problems[0].message)
    settings = _settings(reading, reading.config)
    if as_json:
        typer.echo(json.dumps([asdict(setting) for setting in settings], indent=2, ensure_ascii=False))
        return
    left = [f"{setting.setting} = {json.dumps(setting.value, ensure_ascii=False)}" for setting in settings]
    width = min(WIDTH, max(len(text) for text in left))
    for text, setting in zip(left, settings, strict=True):
        where = setting.variable or (f"line {setting.line}" if setting.line else setting.origin)
        typer.echo(f"{text:<{width}}  # {where}")


@dataclass(frozen=True, slots=True)
class _Shown:
    """One setting, as --json shows it."""

    setting: str
    value: Any
    origin: str
    """`default`, `file` or `environment`."""
    line: int | None = None
    variable: str = ""


def _settings(reading: Reading, config: Config) -> list[_Shown]:
    places = [
        (Place(table, field.name), getattr(getattr(config, table), field.name))
        for table, cls in TABLES.items()
        for field in fields(cls)
    ]
    for table, items in (("datastore", config.datastores), ("peers", config.peers)):
        places += [
            (Place(table, field.name, index), getattr(item, field.name))
            for index, item in enumerate(items)
            for field in fields(ARRAYS[table])
        ]
    return [_shown(reading, place, value) for place, value in places]


def _shown(reading: Reading, place: Place, value: object) -> _Shown:
    name = f"[{place.table}] {place.key}" if place.table in TABLES else f"[[{place.table}]] {place.index} {place.key}"
    text = json.loads(toml(value))  # what TOML and JSON have in common
    if place not in reading.given:
        return _Shown(name, text, DEFAULT)
    origin = reading.source.origin(place)
    return _Shown(name, text, "environment" if origin.variable else "file", origin.line, origin.variable)


def _position(problem: Problem) -> tuple[int, str]:
    """Sort by line; what stands in no line comes first."""
    return problem.origin.line or 0, problem.origin.variable
