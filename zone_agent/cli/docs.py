"""Writes docs/cli.md and docs/configuration.md from what they describe: `python -m zone_agent.cli.docs [--check]`."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from fedmarket.errors import EXIT_CODES
from zone_agent.cli.connection import CREDENTIALS_VARIABLE, DEFAULT_ENDPOINT, ENDPOINT_VARIABLE
from zone_agent.cli.groups import LazyGroup
from zone_agent.cli.main import INTERRUPTED, PROGRAM, READER_GONE, TERMINATED, app
from zone_agent.config.render import configuration_page

DOCS = Path(__file__).parents[2] / "docs"
CHECK = "--check"

INTRODUCTION = f"""\
# The `{PROGRAM}` command

<!-- Generated from zone_agent/cli by `python -m zone_agent.cli.docs`: change it there. -->

`{PROGRAM} agent ...` makes a zone and runs its agent; `{PROGRAM} zone init` and `{PROGRAM} zone restore` work on a zone
whose agent is stopped; `{PROGRAM} etcd ...` talks to an etcd. All other commands are clients of an agent's native gRPC
API.

**Which agent, and as whom.** `--endpoint`, or the variable {ENDPOINT_VARIABLE}, is the agent's gRPC port: `host:port`
speaks plaintext, `https://host:port` (or `tls://host:port`) speaks TLS; {DEFAULT_ENDPOINT} if neither is given.
`--credentials`, or {CREDENTIALS_VARIABLE}, is a file that holds `user:secret`, like OpenNebula's ONE_AUTH. A proxy in
the environment is not used. These options stand before the command or after it; after it wins, and both win over the
environment.

**Ids and names.** Where a command takes a market, app, image, datastore or zone, digits are an id and anything else is
a name. Markets and apps of other zones are named `name@zone` where the bare name is ambiguous.

**Output.** Tables for people; `--json` for scripts: an array for lists, also an empty one, and an object for one thing.
Keys are the field names of proto/fedmarket/v1, all of them always there; numbers are numbers, states and types are
lower-case words, times are RFC 3339 in UTC, what is not set is null. Errors go to stderr, and so do progress bars, on a
terminal only (FEDMARKET_PROGRESS, `always` or `never`, says otherwise). `federation status --json` is an object: this
zone, its links, what scrubs found, and alarms; `delete --json` is `{{"id": n}}`; `app download --json` is the app and
`path`; with `--no-wait` the object has `job_id` too.

**Errors** are one sentence on stderr that says what to do next. The exit status says what kind it is:
"""

SIGNALS = {
    INTERRUPTED: "interrupted (Ctrl-C); a job that had begun goes on in the agent",
    TERMINATED: "terminated",
    READER_GONE: "whoever read the output has gone",
}


def main(args: Sequence[str]) -> int:
    """Write the pages, or with --check only say whether they are up to date."""
    stale = [path for path, text in pages() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if CHECK not in args:
        for path, text in pages():
            path.write_text(text, encoding="utf-8")
        return 0
    for path in stale:
        print(f"{path} is out of date: run `python -m zone_agent.cli.docs`", file=sys.stderr)
    return 1 if stale else 0


def pages() -> Iterator[tuple[Path, str]]:
    """Return each generated page and what it should hold."""
    yield DOCS / "cli.md", cli_page()
    yield DOCS / "configuration.md", configuration_page()


def cli_page() -> str:
    """Return the page docs/cli.md."""
    root: Any = typer.main.get_command(app)
    context = root.context_class(root, info_name=PROGRAM)
    parts = [INTRODUCTION, _exit_codes(), f"## Common options\n\n{_options(root, context)}"]
    for name in root.list_commands(context):
        group = root.get_command(context, name)
        if isinstance(group, LazyGroup):
            group.load()
        parts.append(f"## {PROGRAM} {name}\n\n{group.help}")
        within = root.context_class(group, info_name=name, parent=context)
        parts += [_command(group.get_command(within, leaf), within) for leaf in group.list_commands(within)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _exit_codes() -> str:
    rows = [f"| {status} | {meaning} |" for status, meaning in sorted((EXIT_CODES | SIGNALS).items())]
    return "\n".join(["| status | meaning |", "|---|---|", *rows])


def _command(command: Any, parent: Any) -> str:
    context = parent.__class__(command, info_name=command.name, parent=parent)
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join([context.command_path, *(parameter.metavar for parameter in arguments), "[OPTIONS]"])
    rows = [f"| `{parameter.metavar}` | {_cell(parameter.help)} |" for parameter in arguments]
    options = _options(command, context, rows)
    return f"### `{usage}`\n\n{command.help}\n\n{options}"


def _options(command: Any, context: Any, rows: Sequence[str] = ()) -> str:
    """Return the table of a command's arguments, which are in `rows`, and its options."""
    lines = ["| option | meaning |", "|---|---|", *rows]
    for parameter in command.params:
        if parameter.param_type_name != "option" or parameter.hidden:
            continue
        names, meaning = parameter.get_help_record(context)
        required = " Required." if parameter.required else ""
        lines.append(f"| `{_cell(names)}` | {_cell(meaning.replace('  [required]', ''))}{required} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
