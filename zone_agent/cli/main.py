"""Entry point of `fedmarket`: what it prints when something fails, and with which status it ends."""

import inspect
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from fedmarket.errors import FedmarketError, Internal, cause_of
from zone_agent.cli.groups import COMPLETION_VARIABLE, GROUPS, HelpingGroup, LazyGroup, group
from zone_agent.cli.options import BEFORE, Given, declare
from zone_agent.cli.signals import INTERRUPTED, READER_GONE, TERMINATED

PROGRAM = "fedmarket"

USAGE = 2

app = typer.Typer(
    cls=HelpingGroup,
    help="Private marketplaces of several cloud zones as one federated resource.",
    rich_markup_mode=None,
)
for _name, _help in GROUPS.items():
    app.add_typer(group(), cls=LazyGroup, name=_name, help=_help)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - slow, and rarely asked for

        print(f"{PROGRAM} {version(PROGRAM)}")
        raise typer.Exit


def _root(*, ctx: typer.Context, **given: Any) -> None:
    ctx.obj = Given(**{name: given[name] for name in BEFORE})


_VERSION = Annotated[
    bool | None, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
]
_CONTEXT = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
declare(_root, [_CONTEXT], BEFORE | {"version": _VERSION})
app.callback()(_root)


@app.command("man", help="Print the manual page, for `fedmarket man | man -l -`.")
def _man() -> None:
    from zone_agent.cli.man import man_page  # noqa: PLC0415 - it imports every command

    typer.echo(man_page(), nl=False)


def main() -> int:
    """Run what the command line says, as a process of its own."""
    # Before grpc is imported: its own log lines are not for who uses a command.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GLOG_minloglevel", "3")
    if COMPLETION_VARIABLE in os.environ:
        typer.main.get_command(app).main(prog_name=PROGRAM)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, `head` perhaps, has what it wanted; nor may the interpreter's last flush complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    return status


def run(args: Sequence[str]) -> int:
    """Run a command and return its exit status: fedmarket.errors.EXIT_CODES, or 128 + n for an end by signal n.

    Raises BrokenPipeError if nobody reads its output any more.
    """
    command = typer.main.get_command(app)
    try:
        with command.make_context(PROGRAM, list(args)) as context:
            command.invoke(context)
    except typer.Exit as ending:
        return ending.exit_code
    except typer.TyperException as error:
        return _fail(_usage(error), USAGE)
    except FedmarketError as error:
        return _fail(error.message, cause_of(error).exit_code)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the outermost boundary: no user ever sees a traceback
        return _fail(_own_fault(error), cause_of(Internal).exit_code)
    return 0


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    # Leave by unwinding, so that half a download is removed.
    sys.exit(TERMINATED)


def _fail(sentence: str, status: int) -> int:
    shown = "".join(c if c.isprintable() else " " for c in sentence)
    print(f"{PROGRAM}: {shown}", file=sys.stderr)
    return status


def _usage(error: typer.TyperException) -> str:
    problem = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if context else PROGRAM
    return f"{problem[:1].lower()}{problem[1:]} (`{path} --help` tells how)"


def _own_fault(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"a fault of fedmarket itself ({type(error).__name__} at {where}: {error}): please report it"
