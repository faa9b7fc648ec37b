"""`fedmarket federation`: how this zone follows its peers, and what an operator does about it."""

import json
import sys
from typing import Annotated

import typer

from federation.records import KINDS, decode
from fedmarket.errors import BadInput, Corrupt, Timeout
from fedmarket.jsonview import enum_word, view
from fedmarket.pb.fedmarket.v1.common_pb2 import Ref
from fedmarket.pb.fedmarket.v1.zone_pb2 import (
    LINK_STATE_DIFF,
    LINK_STATE_SHARED,
    LINK_STATE_TAIL,
    SCRUB_VERDICT_ALARM,
    SCRUB_VERDICT_REPAIRING,
    SCRUB_VERDICT_SYNCING,
    CatalogCheck,
    FederationStatusRequest,
    ForgetRequest,
    Link,
    LinkState,
    ListLostRequest,
    RetryLinkRequest,
    ShowLostRequest,
    ShowLostResponse,
    VerifyRequest,
)
from fedmarket.pb.fedmarket.v1.zone_pb2_grpc import FederationServiceStub
from zone_agent.cli.client import Client, client_command
from zone_agent.cli.confirm import confirm
from zone_agent.cli.groups import group
from zone_agent.cli.output import Column, age, column, head, number, plain, size
from zone_agent.cli.session import LifeSigns, ref

commands = group()

ZoneRef = Annotated[str, typer.Argument(metavar="ZONE", help="Id or name.")]
EachZone = Annotated[str | None, typer.Argument(metavar="[ZONE]", help="Id or name; without it, every zone.")]
Epoch = Annotated[int, typer.Option("--epoch", metavar="N", min=0, help="Only of this epoch of the zone; 0: of each.")]

UP = (LINK_STATE_TAIL, LINK_STATE_DIFF, LINK_STATE_SHARED)
UNSETTLED = (SCRUB_VERDICT_REPAIRING, SCRUB_VERDICT_SYNCING)

LINKS = (
    number("ZONE", "zone_id"),
    column("NAME", "name"),
    column("STATE", "state"),
    Column("HERE", lambda row: head(row["here"])),
    Column("THERE", lambda row: head(row["there"])),
    Column("AGE", lambda row: age(row["age_seconds"]), right=True),
    column("ADDRESS", "address"),
    column("LAST ERROR", "last_error"),
)
CHECKS = (
    number("ZONE", "zone_id"),
    column("NAME", "zone"),
    column("CATALOG", "catalog"),
    Column("VERDICT", lambda row: "repaired" if row["repaired"] and row["verdict"] == "ok" else row["verdict"]),
    Column("HERE", lambda row: head(row["head"])),
    Column("THERE", lambda row: head(row["there"])),
    column("CURRENT", "current"),
    number("RECORDS", "count"),
    number("FOUND", "found"),
    Column("DIFFERS", lambda row: plain(", ".join(row["differs"]))),
)
LOST = (
    number("ZONE", "zone_id"),
    column("NAME", "zone"),
    number("EPOCH", "epoch"),
    column("KIND", "kind"),
    number("ID", "id"),
    column("RECORD", "name"),
    size("SIZE", "size_bytes"),
)


@client_command(commands, "status")
def status(client: Client) -> None:
    """Show the link to each peer: its state, the peer's head (epoch/seq) held here and known there, its age.

    What a person must look into is said on stderr, one line each, that begins with ALARM.
    """
    stub = client.session.stub(FederationServiceStub)
    found = client.session.call(stub.Status, FederationStatusRequest())
    client.out.table(found.links, LINKS)
    for alarm in found.alarms:
        print(f"ALARM: {plain(alarm)}", file=sys.stderr)


@client_command(commands, "verify")
def verify(client: Client, zone: EachZone = None) -> None:
    """Read what etcd holds of each catalog and compare it with its signed head; wait for what is repaired.

    CURRENT says whether the copy of a peer is the newest that the peer says it has, FOUND how often the catalog was
    found damaged since the agent was started. A copy that is damaged is fetched
    again, and waited for as long as --timeout says (status 6 if it is not whole by then). A catalog of this zone that
    is not as it was signed takes no changes until `fedmarket zone repair` (status 8).
    """
    checks = _checks(client, None if zone is None else ref(zone))
    client.out.table(checks.values(), CHECKS)
    for check in checks.values():
        if check.verdict == SCRUB_VERDICT_ALARM:
            raise Corrupt(check.reason)
    for check in checks.values():
        if check.verdict in UNSETTLED:
            raise Timeout(
                f"the copy of zone {_called(check.zone, check.zone_id)} was not whole within "
                f"{client.session.connection.timeout:g} s: look at `fedmarket federation status`, and verify again"
            )


@client_command(commands, "retry")
def retry(client: Client, zone: ZoneRef) -> None:
    """Dial a peer at once, also one whose link is FORKED or REFUSED, and say what came of it."""
    stub = client.session.stub(FederationServiceStub)
    link = client.session.call(stub.Retry, RetryLinkRequest(zone=ref(zone)))
    if client.out.as_json:
        client.out.show(link)
    else:
        client.out.done(_told(link))


@client_command(commands, "lost")
def lost(
    client: Client,
    zone: EachZone = None,
    record: Annotated[
        str | None, typer.Argument(metavar="[KIND/ID]", help="Show this one, as JSON: the newest, or of --epoch.")
    ] = None,
    epoch: Epoch = 0,
) -> None:
    """List the records that were removed from the copies of peers although no commit that came here removed them."""
    stub = client.session.stub(FederationServiceStub)
    if zone is not None and record is not None:
        kind, record_id = _record(record)
        request = ShowLostRequest(zone=ref(zone), kind=kind, id=record_id, epoch=epoch)
        _print_lost(client.session.call(stub.ShowLost, request))
        return
    listing = ListLostRequest(zone=None if zone is None else ref(zone), epoch=epoch)
    life = LifeSigns()
    call = stub.Lost(listing, metadata=client.session.metadata)
    found = []
    with client.session.listening(call, life):
        for each in call:
            life.heard()
            found.append(each)
    client.out.table(found, LOST)


@client_command(commands, "forget")
def forget(
    client: Client,
    zone: ZoneRef,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete all that is stored here of a zone that is no peer any more, or whose copy is of another key."""
    confirm(f"Delete the copy of the catalog of zone {zone}, and its lost records, from this zone's etcd?", yes=yes)
    stub = client.session.stub(FederationServiceStub)
    forgotten = client.session.call(stub.Forget, ForgetRequest(zone=ref(zone)), change=True)
    client.out.done(
        f"forgot zone {forgotten.zone_id}: deleted {forgotten.keys} keys",
        zone_id=forgotten.zone_id,
        keys=forgotten.keys,
    )


def _checks(client: Client, zone: Ref | None) -> dict[tuple[int, int], CatalogCheck]:
    """Return what a scrub found of each catalog, as it was last told before the agent fell silent for the timeout."""
    call = client.session.stub(FederationServiceStub).Verify(VerifyRequest(zone=zone), metadata=client.session.metadata)
    life = LifeSigns()
    checks: dict[tuple[int, int], CatalogCheck] = {}
    try:
        with client.session.listening(call, life):
            for check in call:
                life.heard()
                checks[check.zone_id, check.catalog] = check
    except Timeout:
        if not any(check.verdict in UNSETTLED for check in checks.values()):
            raise
    return checks


def _told(link: Link) -> str:
    state = enum_word(LinkState.DESCRIPTOR, link.state)
    told = f"the link to zone {_called(link.name, link.zone_id)} is {state}"
    return told if link.state in UP else f"{told}: {plain(link.last_error)}"


def _called(name: str, zone_id: int) -> str:
    return f"{plain(name)} ({zone_id})" if name and name != str(zone_id) else str(zone_id)


def _record(text: str) -> tuple[str, int]:
    kind, _, digits = text.partition("/")
    if not (kind and digits.isascii() and digits.isdigit()):
        raise BadInput(f"{text!r} is not KIND/ID: write for instance app/100000100, as `federation lost` lists them")
    return kind, int(digits)


def _print_lost(found: ShowLostResponse) -> None:
    """Print a record as JSON: what it says or, of a kind that this version does not know, its bytes as hex."""
    kind = KINDS.get(found.lost.kind)
    record = view(decode(kind, found.value).message) if kind else found.value.hex()
    print(json.dumps(view(found.lost) | {"record": record}, indent=2, ensure_ascii=False))
