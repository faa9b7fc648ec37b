"""The options that every client command has. They may stand before the command's name or after it."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from zone_agent.cli.connection import (
    CA_FILE_VARIABLE,
    CREDENTIALS_VARIABLE,
    DEFAULT_ENDPOINT,
    DEFAULT_TIMEOUT,
    ENDPOINT_VARIABLE,
    TIMEOUT_VARIABLE,
    Connection,
    connection,
)


def _options(*, hidden: bool) -> dict[str, Any]:
    """Return the type of each option. The first place has the environment, so that the second can override it."""
    return {
        "endpoint": Annotated[
            str | None,
            typer.Option(
                "--endpoint",
                envvar=None if hidden else ENDPOINT_VARIABLE,
                metavar="HOST:PORT",
                help=f"The agent's gRPC port; https://HOST:PORT where it serves TLS. Without: {DEFAULT_ENDPOINT}.",
                hidden=hidden,
            ),
        ],
        "credentials": Annotated[
            Path | None,
            typer.Option(
                "--credentials",
                envvar=None if hidden else CREDENTIALS_VARIABLE,
                metavar="FILE",
                help="File that holds user:secret.",
                hidden=hidden,
            ),
        ],
        "timeout": Annotated[
            float | None,
            typer.Option(
                "--timeout",
                envvar=None if hidden else TIMEOUT_VARIABLE,
                metavar="SECONDS",
                help=f"Wait so long for an answer; in a transfer, for its next bytes. Without: {DEFAULT_TIMEOUT:g}.",
                hidden=hidden,
            ),
        ],
        "ca_file": Annotated[
            Path | None,
            typer.Option(
                "--ca-file",
                envvar=None if hidden else CA_FILE_VARIABLE,
                metavar="FILE",
                help="CA certificates (PEM) to trust in place of the system's, where the endpoint is TLS.",
                hidden=hidden,
            ),
        ],
    }


BEFORE = _options(hidden=False)
"""Of `fedmarket` itself."""
AFTER = _options(hidden=True)
"""Of each command; not shown again in its help."""


def declare(function: Callable[..., None], parameters: Iterable[inspect.Parameter], options: Mapping[str, Any]) -> None:
    """Give a function that takes keywords the signature from which typer makes a command's options."""
    declared = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    declared += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=None)
        for name, kind in options.items()
    ]
    function.__dict__["__signature__"] = inspect.Signature(declared)
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in declared}


@dataclass(frozen=True, slots=True)
class Given:
    """What was given in one place; None: not there."""

    endpoint: str | None = None
    credentials: Path | None = None
    timeout: float | None = None
    ca_file: Path | None = None

    def over(self, other: "Given") -> "Given":
        """Return what holds where this place has precedence over the other."""
        return Given(
            *(
                getattr(other, field.name) if (own := getattr(self, field.name)) is None else own
                for field in fields(self)
            )
        )

    def connection(self) -> Connection:
        """Return the connection that is meant. Reads the credentials. Raises BadInput."""
        return connection(self.endpoint, self.credentials, self.timeout, self.ca_file)
