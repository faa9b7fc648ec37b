"""`fedmarket agent`: make a zone and run its agent. No client commands: they need no agent."""

import asyncio
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from zone_agent.address import Address
from zone_agent.cli.groups import group
from zone_agent.config import load
from zone_agent.init import ADMIN, NewZone, make_zone

commands = group()


class LogLevel(Enum):
    """How much the agent says."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@commands.command("init")
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the zone: a new or an empty one.")],
    zone_id: Annotated[int, typer.Option("--zone-id", metavar="ID", help="Number of the zone, 0 to 2146.")],
    zone_name: Annotated[str, typer.Option("--zone-name", metavar="NAME", help="Name of the zone.")],
    http: Annotated[str | None, typer.Option("--http", metavar="HOST:PORT", help="Listen there for HTTP.")] = None,
    grpc: Annotated[str | None, typer.Option("--grpc", metavar="HOST:PORT", help="Listen there for clients.")] = None,
    peer: Annotated[
        str | None, typer.Option("--peer", metavar="HOST:PORT", help="Listen there for the other zones.")
    ] = None,
    embedded_etcd: Annotated[bool, typer.Option(help="Whether the agent runs an etcd of its own.")] = True,
    etcd_endpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--etcd-endpoint",
            metavar="HOST:PORT",
            help="A member of an etcd that runs elsewhere, instead of an own one; repeatable.",
        ),
    ] = None,
) -> None:
    """Make a zone: a commented zone.toml, its key, and the credentials of its administrator."""
    listeners = [Address.parse(text) if text else None for text in (http, grpc, peer)]
    made = make_zone(
        directory,
        NewZone(
            id=zone_id,
            name=zone_name,
            http=listeners[0],
            grpc=listeners[1],
            peer=listeners[2],
            embedded_etcd=embedded_etcd and not etcd_endpoint,
            etcd_endpoints=tuple(etcd_endpoint or ()),
        ),
    )
    config = made.config
    endpoint = config.grpc.public_address(config.grpc.listen.port)
    typer.echo(
        f"Made zone {config.zone.name} ({config.zone.id}) in {config.layout.directory}.\n\n"
        "Start its agent:\n"
        f"    fedmarket agent run --config {config.file}\n"
        f"Use it as {ADMIN}:\n"
        f"    fedmarket --endpoint {endpoint} --credentials {config.auth.credentials} zone list\n\n"
        "Another zone follows this one with this in its zone.toml:\n\n"
        f"{made.peers_toml}",
        nl=False,
    )


@commands.command("run")
def run(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The zone.toml of the zone.")],
    log_level: Annotated[
        LogLevel | None, typer.Option("--log-level", help="How much to say on stderr; wins over [log] level.")
    ] = None,
) -> None:
    """Run the agent of a zone until it is told to stop (SIGTERM, SIGINT)."""
    # Everything an agent is made of: neither `init` nor a --help has to wait for it.
    from zone_agent.agent import run as run_agent  # noqa: PLC0415
    from zone_agent.telemetry.agent import observed_agent  # noqa: PLC0415 - as above

    settings = load(config)
    log = settings.log if log_level is None else replace(settings.log, level=log_level.value)
    with observed_agent(settings, log):
        asyncio.run(run_agent(settings))


@commands.command("reload")
def reload(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The zone.toml that the agent runs with.")],
) -> None:
    """Let a running agent take up changed settings, certificates and credentials, if they hold.

    Its log says what it took up and what waits for a restart. The environment of the agent is that of its start.
    """
    from zone_agent.presence import ask_to_reload  # noqa: PLC0415 - as above

    load(config)  # an error is said here, not only in a log
    pid = ask_to_reload(config.absolute())
    typer.echo(f"The agent, process {pid}, reloads its settings: its log says what it takes up.")
