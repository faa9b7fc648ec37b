"""Writes what is generated from the code: `python -m zone_agent.cli.docs [--check]`.

These are docs/cli.md, docs/configuration.md and docs/man/fedmarket.1.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fedmarket.errors import EXIT_CODES
from zone_agent.cli.connection import CREDENTIALS_VARIABLE, DEFAULT_ENDPOINT, ENDPOINT_VARIABLE
from zone_agent.cli.main import PROGRAM
from zone_agent.cli.man import man_page
from zone_agent.cli.signals import SIGNALS
from zone_agent.cli.tree import Command, Option, common, groups
from zone_agent.config.render import configuration_page
from zone_agent.telemetry.instruments import metrics_page

DOCS = Path(__file__).parents[2] / "docs"
CHECK = "--check"

INTRODUCTION = f"""\
# The `{PROGRAM}` command

<!-- Generated from zone_agent/cli by `python -m zone_agent.cli.docs`: change it there. -->

`{PROGRAM} man | man -l -` shows this page in a terminal.

`{PROGRAM} agent ...` makes a zone and runs its agent; `{PROGRAM} config ...` looks at its settings; `{PROGRAM} zone
init` and `{PROGRAM} zone restore` work on a zone whose agent is stopped; `{PROGRAM} etcd ...` talks to an etcd. All
other commands are clients of an agent's native gRPC API. Shells complete commands, options and names after
`{PROGRAM} --install-completion`.

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


def main(args: Sequence[str]) -> int:
    """Write the pages, or with --check only say whether they are up to date."""
    stale = [path for path, text in pages() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if CHECK not in args:
        for path, text in pages():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return 0
    for path in stale:
        print(f"{path} is out of date: run `python -m zone_agent.cli.docs`", file=sys.stderr)
    return 1 if stale else 0


def pages() -> Iterator[tuple[Path, str]]:
    """Return each generated page and what it should hold."""
    yield DOCS / "cli.md", cli_page()
    yield DOCS / "configuration.md", configuration_page()
    yield DOCS / "metrics.md", metrics_page()
    yield DOCS / "man" / f"{PROGRAM}.1", man_page()


def cli_page() -> str:
    """Return the page docs/cli.md."""
    parts = [INTRODUCTION, _exit_codes(), f"## Common options\n\n{_table(common())}"]
    for group in groups():
        parts.append(f"## {PROGRAM} {group.name}\n\n{group.help}")
        parts += [_command(command) for command in group.commands]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _exit_codes() -> str:
    rows = [f"| {status} | {meaning} |" for status, meaning in sorted((EXIT_CODES | SIGNALS).items())]
    return "\n".join(["| status | meaning |", "|---|---|", *rows])


def _command(command: Command) -> str:
    return f"### `{command.usage}`\n\n{command.help}\n\n{_table([*command.arguments, *command.options])}"


def _table(options: Iterable[Option]) -> str:
    """Return the table of a command's arguments and options."""
    rows = [f"| `{_cell(option.names)}` | {_cell(option.meaning)} |" for option in options]
    return "\n".join(["| option | meaning |", "|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
