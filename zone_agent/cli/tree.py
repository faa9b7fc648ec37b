"""The commands as they are declared, for what describes them: docs/cli.md and the man page."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

from zone_agent.cli.groups import LazyGroup
from zone_agent.cli.main import PROGRAM, app


@dataclass(frozen=True, slots=True)
class Option:
    """An argument or an option of a command."""

    names: str
    """As it is given: `APP`, `--name NAME`."""
    meaning: str


@dataclass(frozen=True, slots=True)
class Command:
    """One command, or the program itself."""

    usage: str
    help: str
    arguments: tuple[Option, ...]
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A group of commands."""

    name: str
    help: str
    commands: tuple[Command, ...]


def common() -> tuple[Option, ...]:
    """Return the options of the program itself."""
    root, context = _root()
    return _options(root, context)


def groups() -> Iterator[Group]:
    """Return all groups, with their commands imported."""
    root, context = _root()
    for name in root.list_commands(context):
        group = root.get_command(context, name)
        if isinstance(group, LazyGroup):
            group.load()
        if not hasattr(group, "list_commands"):
            continue
        within = context.__class__(group, info_name=name, parent=context)
        leaves = (group.get_command(within, leaf) for leaf in group.list_commands(within))
        yield Group(name, _plain(group.help), tuple(_command(leaf, within) for leaf in leaves))


def _root() -> tuple[Any, Any]:
    root: Any = typer.main.get_command(app)
    return root, root.context_class(root, info_name=PROGRAM)


def _command(command: Any, parent: Any) -> Command:
    context = parent.__class__(command, info_name=command.name, parent=parent)
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    return Command(
        " ".join([context.command_path, *(parameter.metavar for parameter in arguments), "[OPTIONS]"]),
        command.help,
        tuple(Option(parameter.metavar, _plain(parameter.help)) for parameter in arguments),
        _options(command, context),
    )


def _options(command: Any, context: Any) -> tuple[Option, ...]:
    found = []
    for parameter in command.params:
        if parameter.param_type_name != "option" or parameter.hidden:
            continue
        names, meaning = parameter.get_help_record(context)
        required = " Required." if parameter.required else ""
        found.append(Option(_plain(names), _plain(meaning.replace("  [required]", "")) + required))
    return tuple(found)


def _plain(text: str) -> str:
    return " ".join(text.split())
