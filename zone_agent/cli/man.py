"""The man page fedmarket(1), in roff, from the same declarations as docs/cli.md."""

import re
from collections.abc import Iterable, Mapping

from fedmarket.errors import EXIT_CODES
from zone_agent.cli.connection import (
    CA_FILE_VARIABLE,
    CREDENTIALS_VARIABLE,
    DEFAULT_ENDPOINT,
    ENDPOINT_VARIABLE,
    TIMEOUT_VARIABLE,
)
from zone_agent.cli.main import PROGRAM
from zone_agent.cli.signals import SIGNALS
from zone_agent.cli.tree import Option, common, groups

ENVIRONMENT = {
    ENDPOINT_VARIABLE: f"The agent's gRPC port, as --endpoint; without either it is {DEFAULT_ENDPOINT}.",
    CREDENTIALS_VARIABLE: "File that holds user:secret, as --credentials.",
    TIMEOUT_VARIABLE: "Seconds to wait for an answer, as --timeout.",
    CA_FILE_VARIABLE: "CA certificates (PEM) to trust, as --ca-file.",
    "FEDMARKET_PROGRESS": "always or never: whether progress is shown, wherever stderr goes.",
    "FEDMARKET_<TABLE>_<KEY>": "Of an agent and of commands that read a zone.toml: overrides that setting.",
    "OTEL_*": "Where telemetry goes, as OpenTelemetry defines them.",
}
FILES = {
    "zone.toml": "The settings of a zone, in the zone's directory; `fedmarket agent init` writes a commented one.",
    "credentials": "user:secret of the zone's administrator, readable by its owner only.",
    "keys/zone.key": "The zone's private key. Lost, it cannot be made again: keep a copy in a safe place.",
    "keys/zone.pub": "The public half, which other zones pin.",
    "state/": "What must survive the loss of etcd: back it up with the key.",
    "etcd/": "Data and log of an embedded etcd.",
}

_SPACE = re.compile(r"\s+")


def man_page() -> str:
    """Return the page. It bears no date and no version, so that it changes only with what it says."""
    lines = [
        '.\\" Generated from zone_agent/cli by "python -m zone_agent.cli.docs": change it there.',
        f'.TH {PROGRAM.upper()} 1 "" "{PROGRAM}" "User Commands"',
        ".SH NAME",
        f"{PROGRAM} \\- private marketplaces of several cloud zones as one federated resource",
        ".SH SYNOPSIS",
        f".B {PROGRAM}",
        "[\\fIOPTIONS\\fR] \\fIGROUP\\fR \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        _text(
            "fedmarket makes a zone, runs its agent, and talks to agents. Most commands are clients of an agent's gRPC "
            "port. Where a command takes a market, app, image, datastore or zone, digits are an id and anything else "
            "is a name; name@zone where a bare name is ambiguous. Tables are for people, --json is for scripts."
        ),
        ".SH OPTIONS",
        _text("These may stand before the command's name or after it."),
        *_list(common()),
        ".SH COMMANDS",
    ]
    for group in groups():
        lines += [f".SS {_text(f'{PROGRAM} {group.name}')}", _text(group.help)]
        for command in group.commands:
            lines += [".PP", f".B {_text(command.usage)}", ".RS", *_paragraphs(command.help)]
            lines += [*_list([*command.arguments, *command.options]), ".RE"]
    lines += [".SH EXIT STATUS", *_items({str(n): text for n, text in sorted((EXIT_CODES | SIGNALS).items())})]
    lines += [".SH ENVIRONMENT", *_items(ENVIRONMENT)]
    lines += [".SH FILES", _text("In the directory of a zone:"), *_items(FILES)]
    return "\n".join(lines) + "\n"


def _list(options: Iterable[Option]) -> list[str]:
    return _items({option.names: option.meaning for option in options})


def _items(meanings: Mapping[str, str]) -> list[str]:
    return [line for name, meaning in meanings.items() for line in (".TP", f".B {_text(name)}", _text(meaning))]


def _paragraphs(text: str) -> list[str]:
    parts = [_text(part) for part in re.split(r"\n\s*\n", text.strip())]
    return [line for part in parts for line in (".PP", part)][1:]


def _text(text: str) -> str:
    """Return plain text as one line of roff, in which nothing is a command."""
    flat = _SPACE.sub(" ", text).strip().replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return f"\\&{flat}" if flat.startswith((".", "'")) else flat
