"""`fedmarket zone`: the zones that this one knows; and what to do when a zone has lost its etcd, or part of it."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fedmarket.errors import BadInput
from fedmarket.jsonview import enum_word, view
from fedmarket.pb.fedmarket.v1.head_pb2 import Catalog
from fedmarket.pb.fedmarket.v1.zone_pb2 import (
    CatalogRepair,
    ExportZoneRequest,
    ListZonesRequest,
    RepairZoneRequest,
    ShowZoneRequest,
)
from fedmarket.pb.fedmarket.v1.zone_pb2_grpc import ZoneServiceStub
from zone_agent.cli.client import Client, client_command
from zone_agent.cli.confirm import confirm
from zone_agent.cli.groups import group
from zone_agent.cli.newfile import new_file
from zone_agent.cli.output import Column, Row, column, head, number
from zone_agent.cli.session import LifeSigns, ref

commands = group()

COLUMNS = (
    Column("", lambda row: "*" if row["local"] else ""),
    number("ID", "id"),
    column("NAME", "name"),
    column("ENDPOINT", "grpc_endpoint"),
    Column("HEAD", lambda row: head(row["head"])),
    column("VERSION", "version"),
    column("STAT", "state"),
)


STDOUT = "-"

Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="The zone.toml of the zone.")]
Force = Annotated[
    bool, typer.Option("--force", help="Also while an agent holds duties in an etcd that runs elsewhere: it is dead.")
]


@client_command(commands, "list")
def list_zones(client: Client) -> None:
    """List this zone (*) and its peers."""
    stub = client.session.stub(ZoneServiceStub)
    client.out.table(client.session.call(stub.List, ListZonesRequest()).zones, COLUMNS)


@client_command(commands, "show")
def show(
    client: Client,
    zone: Annotated[str | None, typer.Argument(metavar="[ZONE]", help="Id or name; without it, this zone.")] = None,
) -> None:
    """Show a zone."""
    stub = client.session.stub(ZoneServiceStub)
    client.out.show(client.session.call(stub.Show, ShowZoneRequest(zone=None if zone is None else ref(zone))))


@client_command(commands, "export")
def export(
    client: Client,
    first: Annotated[str, typer.Argument(metavar="[ZONE]", help="Id or name; without it, this zone.")],
    second: Annotated[str | None, typer.Argument(metavar="FILE", help="Where to; - is stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a zone's federated catalog, as this zone holds it, to a file that `zone restore` takes.

    The file appears when it is whole and verified under the key of that zone.
    """
    zone, file = (None, first) if second is None else (first, second)
    if file == STDOUT and client.out.as_json:
        raise BadInput("--json and FILE - both want stdout: give a file name, or leave --json out")
    fetched = _fetch(client, zone)
    if file == STDOUT:
        sys.stdout.buffer.write(fetched.content)
        return
    with new_file(Path(file), overwrite=force) as target:
        target.write(fetched.content)
    client.out.done(
        f"{file}: zone {fetched.zone_id} as of commit {fetched.epoch}/{fetched.seq}, {fetched.count} records",
        path=file,
        zone_id=fetched.zone_id,
        epoch=fetched.epoch,
        seq=fetched.seq,
        count=fetched.count,
    )


@client_command(commands, "repair")
def repair(
    client: Client,
    accept: Annotated[
        bool,
        typer.Option(
            "--accept", help="Sign what is stored, as far as it can be read, where it is not what was signed."
        ),
    ] = False,
) -> None:
    """Put right the catalogs of this zone whose stored records are not those of their signed head.

    What was signed is written back: as this agent last saw it, or as a peer holds it.
    """
    stub = client.session.stub(ZoneServiceStub)
    done = client.session.call(stub.Repair, RepairZoneRequest(accept=accept), change=True)
    if client.out.as_json:
        client.out.table(done.catalogs, ())
        return
    for catalog in done.catalogs:
        _print_repair(catalog)


@commands.command("init")
def init(
    config: Config,
    new_epoch: Annotated[bool, typer.Option("--new-epoch", help="Say that this is what you want.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Force = False,
) -> None:
    """Begin a new epoch of a zone whose agent is stopped: its etcd, or part of it, was lost and does not come back.

    The zone goes on with what its etcd holds now, which may be nothing. Ids go on far above those that were given out.
    """
    # All that opens an etcd: no client has to wait for it.
    from zone_agent.config import load  # noqa: PLC0415
    from zone_agent.offline import begin_epochs  # noqa: PLC0415

    if not new_epoch:
        raise BadInput("`zone init` begins a new epoch: say --new-epoch; `fedmarket agent init` makes a new zone")
    settings = load(config)
    confirm(
        f"Zone {settings.zone.name} ({settings.zone.id}) will go on with what its etcd holds now, and forget what it "
        "does not. `fedmarket zone restore` gets the federated catalog from a peer instead. Go on?",
        yes=yes,
    )
    epochs = asyncio.run(begin_epochs(settings, force=force))
    if not epochs:
        typer.echo(f"Zone {settings.zone.name} never committed anything, so it needs no new epoch: start its agent.")
        return
    for epoch in epochs:
        typer.echo(epoch.sentence)
    typer.echo(
        "Records of earlier commits that are not among these are lost here; peers keep what they had of the federated "
        f"ones below lost/.\n{_start(config)}"
    )


@commands.command("restore")
def restore(
    config: Config,
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="PEER|FILE", help="Id of one of the [[peers]], or a file that `zone export` wrote."
        ),
    ],
    force: Force = False,
) -> None:
    """Fill the etcd of a zone whose agent is stopped with its federated catalog, as a peer or a file has it.

    It is written only if it is whole and signed by this zone; then a new epoch begins. The private catalog (images,
    datastores, markets of this zone only) is in no peer: if it was lost it begins empty, and images that lie in the
    datastores are unknown. Only a snapshot of etcd brings it back: put that in place instead, if there is one.
    """
    from zone_agent.config import load  # noqa: PLC0415
    from zone_agent.offline import restore as restore_zone  # noqa: PLC0415

    settings = load(config)
    copy, epochs = asyncio.run(restore_zone(settings, source, force=force))
    epoch, seq = copy.head.pair
    typer.echo(f"The copy is of commit {epoch}/{seq}.")
    for begun in epochs:
        typer.echo(begun.sentence)
    typer.echo(_start(config))


@dataclass(frozen=True, slots=True)
class _Exported:
    """A catalog that was fetched and verified."""

    zone_id: int
    epoch: int
    seq: int
    count: int
    content: bytes
    """Of the file."""


def _fetch(client: Client, zone: str | None) -> _Exported:
    # Keys and signatures: the other commands do not have to wait for them.
    from federation.recall import gather, to_bytes  # noqa: PLC0415
    from federation.trust.keys import PublicKey  # noqa: PLC0415

    stub = client.session.stub(ZoneServiceStub)
    which = None if zone is None else ref(zone)
    shown = client.session.call(stub.Show, ShowZoneRequest(zone=which))
    life = LifeSigns()
    messages = []
    call = stub.Export(ExportZoneRequest(zone=which), metadata=client.session.metadata)
    with client.session.listening(call, life):
        for message in call:
            life.heard()
            messages.append(message)
    copy = gather(messages, shown.id, PublicKey.parse(shown.key))
    return _Exported(shown.id, *copy.head.pair, copy.tree.count, b"".join(to_bytes(messages)))


def _print_repair(catalog: CatalogRepair) -> None:
    row: Row = dict(view(catalog))
    name = enum_word(Catalog.DESCRIPTOR, catalog.catalog)
    at = head(row["head"])
    match row["outcome"]:
        case "sound":
            print(f"{name}: sound, at {at}")
        case "restored":
            print(f"{name}: put right from {row['source']}, in commit {at}")
        case _:
            print(f"{name}: what is stored was signed, in commit {at}")
    for key in catalog.written:
        print(f"  put back {key}")
    for key in catalog.removed:
        print(f"  removed  {key}")


def _start(config: Path) -> str:
    return f"Start its agent:\n    fedmarket agent run --config {config}"
