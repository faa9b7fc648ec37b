"""What makes a function a client command: it gets a Client, and `fedmarket` gets its common options."""

import inspect
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from zone_agent.cli.options import AFTER, Given, declare
from zone_agent.cli.output import Output
from zone_agent.cli.session import Session
from zone_agent.telemetry.command import traced_command

P = ParamSpec("P")

COMMON = "The options of fedmarket itself (--endpoint, --credentials, --timeout, --ca-file) may stand here too."

_CONTEXT = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
_JSON = inspect.Parameter(
    "json",
    inspect.Parameter.KEYWORD_ONLY,
    annotation=Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")],
    default=False,
)


@dataclass(frozen=True, slots=True)
class Client:
    """What a command works with."""

    session: Session
    out: Output


def client_command(
    group: typer.Typer, name: str
) -> Callable[[Callable[Concatenate[Client, P], None]], Callable[Concatenate[Client, P], None]]:
    """Make a function the command `name` of a group. Its first parameter is the Client, the others are its options."""

    def register(function: Callable[Concatenate[Client, P], None]) -> Callable[Concatenate[Client, P], None]:
        def run(*, ctx: typer.Context, json: bool, **options: Any) -> None:
            given = Given(**{name: options.pop(name) for name in AFTER}).over(ctx.obj)
            with traced_command(ctx.command_path), closing(Session(given.connection())) as session:
                function(Client(session, Output(as_json=json)), **options)  # type: ignore[call-arg]  # typer checked

        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        declare(run, [_CONTEXT, *own, _JSON], AFTER)
        run.__doc__ = function.__doc__
        group.command(name, epilog=COMMON)(run)
        return function

    return register
