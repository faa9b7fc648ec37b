"""Groups of commands that cost nothing until one of their commands is used."""

import importlib
import os
from typing import Any

import typer
from typer.core import TyperGroup

GROUPS = {
    "agent": "Make a zone and run its agent.",
    "config": "The settings of a zone.",
    "zone": "The zones of the federation.",
    "federation": "How this zone follows its peers.",
    "datastore": "Datastores of this zone.",
    "image": "Images of this zone.",
    "market": "Marketplaces of all zones.",
    "app": "Marketplace apps of all zones.",
    "request": "Changes whose answer was lost.",
    "job": "Long operations of this zone.",
    "etcd": "The etcd of a zone, its own or shared.",
}

COMPLETION_VARIABLE = "_FEDMARKET_COMPLETE"
"""Set by the function that a shell calls to complete a line."""


def group() -> typer.Typer:
    """Return a new group of commands, whose help is plain text: rich takes twice as long to show it."""
    return typer.Typer(rich_markup_mode=None)


class HelpingGroup(TyperGroup):
    """A group that shows its help, as a usage error, where no command is given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options before the command's name."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)


class LazyGroup(HelpingGroup):
    """A group whose commands are imported when it is entered: gRPC takes longer to import than `--help` may take."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Enter the group."""
        self.load()
        return super().make_context(*args, **kwargs)

    def load(self) -> None:
        """Import the commands of the group."""
        module = importlib.import_module(f"zone_agent.cli.commands.{self.name}")
        self.commands = typer.main.get_group(module.commands).commands
        if COMPLETION_VARIABLE in os.environ:
            from zone_agent.cli.complete import complete_values  # noqa: PLC0415 - for a shell only

            for command in self.commands.values():
                complete_values(command)
