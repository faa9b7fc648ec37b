"""`fedmarket etcd status` and the rest of what looks after a zone's own etcd, by asking its members."""

import inspect
import time
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from federation.etcd.alarms import CORRUPT, alarms_in, errors_in
from fedmarket.errors import BadInput, NoSpace, Refused, Unavailable
from fedmarket.units import human_size
from zone_agent.cli.groups import group
from zone_agent.cli.members import UPKEEP_SECONDS, Asked, AsRoot, Members, members_of
from zone_agent.cli.newfile import new_file
from zone_agent.cli.options import declare
from zone_agent.cli.output import Column, Output, Row, column, number, plain
from zone_agent.cli.snapshot import PRIVATE, SnapshotFile

P = ParamSpec("P")

commands = group()

OPTIONS = {
    "config": Annotated[Path, typer.Option("--config", metavar="FILE", help="The zone.toml of the zone.")],
    "cert": Annotated[
        Path | None,
        typer.Option("--cert", metavar="FILE", help="Certificate (PEM) of etcd's root. Without: as the zone itself."),
    ],
    "key": Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Private key (PEM) of --cert.")],
    "root_user": Annotated[
        str | None,
        typer.Option("--root-user", metavar="NAME", help="User with the role root to be. Without: as the zone itself."),
    ],
    "root_password_file": Annotated[
        Path | None, typer.Option("--root-password-file", metavar="FILE", help="File that holds its password.")
    ],
    "timeout": Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="SECONDS", min=0.1, help=f"Give each member so long. Without: {UPKEEP_SECONDS:g}."
        ),
    ],
}
"""Of every command here, beside --json."""
JSON = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

KEEP = 1000
"""Revisions that a compaction leaves: more than any agent that is connected is behind."""
STILL_FULL = 0.9
"""Of the quota: with less room than that, the next changes would raise the alarm again."""

STATUS = (
    column("ENDPOINT", "endpoint"),
    column("NAME", "name"),
    column("VERSION", "version"),
    Column("DB SIZE", lambda row: _size(row["db_bytes"]), right=True),
    Column("IN USE", lambda row: _size(row["in_use_bytes"]), right=True),
    Column("QUOTA", lambda row: _size(row["quota_bytes"]), right=True),
    column("LEADER", "leader"),
    number("TERM", "raft_term"),
    number("INDEX", "raft_index"),
    number("REVISION", "revision"),
    Column("ALARMS", lambda row: plain(", ".join(row["alarms"]))),
    Column("ERRORS", lambda row: plain("; ".join(row["errors"]))),
)
MEMBERS = (
    column("ID", "id"),
    column("NAME", "name"),
    Column("CLIENT URLS", lambda row: plain(", ".join(row["client_urls"]))),
    Column("PEER URLS", lambda row: plain(", ".join(row["peer_urls"]))),
    column("LEARNER", "learner"),
    column("ANSWERS", "answers"),
)


def members_command(
    name: str,
) -> Callable[[Callable[Concatenate[Members, Output, P], None]], Callable[Concatenate[Members, Output, P], None]]:
    """Make a function the command `name`. It gets the members and where to print; its other parameters are options."""

    def register(
        function: Callable[Concatenate[Members, Output, P], None],
    ) -> Callable[Concatenate[Members, Output, P], None]:
        def run(
            *,
            config: Path,
            cert: Path | None,
            key: Path | None,
            root_user: str | None,
            root_password_file: Path | None,
            timeout: float | None,
            json: bool,
            **options: Any,
        ) -> None:
            with members_of(config, AsRoot(cert, key, root_user, root_password_file), timeout) as found:
                function(found, Output(as_json=json), **options)  # type: ignore[call-arg]  # typer checked

        kind, keyword = inspect.Parameter, inspect.Parameter.KEYWORD_ONLY
        required = kind("config", keyword, annotation=OPTIONS["config"])
        own = list(inspect.signature(function, eval_str=True).parameters.values())[2:]
        as_json = kind("json", keyword, annotation=JSON, default=False)
        declare(run, [required, *own, as_json], {name: OPTIONS[name] for name in OPTIONS if name != "config"})
        run.__doc__ = function.__doc__
        commands.command(name)(run)
        return function

    return register


@members_command("status")
def status(found: Members, out: Output) -> None:
    """Show how each member is: its database, its place in the cluster, and the alarms that are on."""
    rows = [_status_row(asked) for asked in found.answered]
    out.rows([*rows, *(_silent_row(*silent) for silent in found.silent.items())], STATUS)


@members_command("members")
def members(found: Members, out: Output) -> None:
    """List the members of the cluster, also those that zone.toml does not name."""
    unreached = {each.id for each in found.unreached}
    rows: list[Row] = [
        {
            "id": f"{each.id:x}",
            "name": each.name,
            "client_urls": list(each.client_urls),
            "peer_urls": list(each.peer_urls),
            "learner": each.learner,
            "answers": each.id not in unreached,
        }
        for each in found.listed
    ]
    out.rows(rows, MEMBERS)


@members_command("compact")
def compact(
    found: Members,
    out: Output,
    revision: Annotated[
        int | None, typer.Option("--revision", metavar="N", min=1, help="Drop the history before this revision.")
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep",
            metavar="N",
            min=0,
            help=f"Leave the last N revisions. Without: {KEEP}; none while etcd has no space left, because nobody "
            "can be behind then.",
        ),
    ] = None,
) -> None:
    """Drop history. Its space is free inside the database then; `defrag` gives it back to the disk.

    Nothing is lost by it but history: an agent that was cut off for longer lists everything anew.
    """
    if revision is not None and keep is not None:
        raise BadInput("--revision and --keep are two ways to say the same: give one of them")
    if keep is None:
        keep = 0 if found.full else KEEP
    target = found.revision - keep if revision is None else revision
    if target > found.revision:
        raise BadInput(f"etcd is at revision {found.revision}, and {target} has not happened yet: give a lower one")
    compacted = target > 0 and found.answered[0].connection.compact(target)
    # Not how much is free now: etcd counts that only with its next writes.
    sentence = f"compacted up to revision {target} of {found.revision}: `fedmarket etcd defrag` gives the space back"
    if not compacted:
        sentence = f"nothing to compact: there is no history before revision {max(target, 1)} of {found.revision}"
    out.done(sentence, compacted=compacted, target=max(target, 0), revision=found.revision)


@members_command("defrag")
def defrag(found: Members, out: Output) -> None:
    """Give the free space of each member's database back to its disk: one member after the other, the leader last.

    A member stands still meanwhile, for a second or two per 100 MiB in use.
    """
    _require_all(found)
    done = [_defragment(asked) for asked in found.answered]
    out.done(
        "\n".join(
            f"member {plain(each['name'])}: {human_size(each['after_bytes'])}, before "
            f"{human_size(each['before_bytes'])}; it took {each['seconds']:.1f} s"
            for each in done
        ),
        members=done,
    )


@members_command("disarm")
def disarm(
    found: Members,
    out: Output,
    force: Annotated[bool, typer.Option("--force", help="Also where the database is still nearly full.")] = False,
) -> None:
    """End the NOSPACE alarm, so that etcd takes changes again: after `compact` and `defrag`."""
    connection = found.answered[0].connection
    alarms = connection.alarms()
    if any(alarm.kind == CORRUPT for alarm in alarms):
        raise Refused(
            "etcd says that its members hold different data (CORRUPT): take the one that differs out of the "
            "cluster, as etcd's documentation tells"
        )
    if not force:
        _require_room(found)
    for alarm in alarms:
        connection.disarm(alarm.member)
    disarmed = [f"{alarm.member:x}" for alarm in alarms]
    sentence = "the NOSPACE alarm is over: etcd takes changes again" if disarmed else "no alarm is on"
    out.done(sentence, disarmed=disarmed)


@members_command("snapshot")
def snapshot(
    found: Members,
    out: Output,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to: a new file.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Write the whole database to a file, which appears when it is there and is what etcd sent, by its SHA-256.

    `etcdutl snapshot restore`, or `etcdctl snapshot restore`, makes a data directory of it. It holds what is private to
    the zone: keep it as you keep the zone's key.
    """
    asked = found.answered[0]
    with new_file(file, overwrite=force, mode=PRIVATE) as target:
        written = SnapshotFile(target, asked.endpoint)
        asked.connection.snapshot(written)
        digest = written.verify()
    out.done(
        f"{file}: {human_size(written.size)} of member {plain(asked.name)}, at revision "
        f"{asked.status.header.revision} or later",
        path=str(file),
        bytes=written.size,
        sha256=digest,
        member=asked.name,
        revision=asked.status.header.revision,
    )


def _status_row(asked: Asked) -> Row:
    said = asked.status
    return {
        "endpoint": asked.endpoint,
        "id": f"{asked.listed.id:x}",
        "name": asked.listed.name,
        "version": said.version,
        "db_bytes": said.dbSize,
        "in_use_bytes": said.dbSizeInUse,
        "quota_bytes": asked.quota or None,
        "leader": asked.leads,
        "learner": said.isLearner,
        "raft_term": said.raftTerm,
        "raft_index": said.raftIndex,
        "raft_applied_index": said.raftAppliedIndex or None,
        "revision": said.header.revision,
        "alarms": [alarm.kind for alarm in alarms_in(said) if alarm.member == said.header.member_id],
        "errors": list(errors_in(said)),
    }


_RAFT = ("raft_term", "raft_index", "raft_applied_index", "revision")


def _silent_row(endpoint: str, error: str) -> Row:
    nothing: dict[str, Any] = dict.fromkeys(
        ("id", "name", "version", "db_bytes", "in_use_bytes", "quota_bytes", "leader", "learner", *_RAFT), None
    )
    return {"endpoint": endpoint, **nothing, "alarms": [], "errors": [error]}


def _defragment(asked: Asked) -> dict[str, Any]:
    started = time.monotonic()
    asked.connection.defragment()
    return {
        "id": f"{asked.listed.id:x}",
        "name": asked.name,
        "endpoint": asked.endpoint,
        "before_bytes": asked.status.dbSize,
        "after_bytes": asked.again().status.dbSize,
        "seconds": round(time.monotonic() - started, 3),
    }


def _require_all(members: Members) -> None:
    """Refuse to make a member stand still while another one is down, or leave one out unsaid. Raises Unavailable."""
    if members.unreached:
        names = ", ".join(plain(each.name or f"{each.id:x}") for each in members.unreached)
        raise Unavailable(
            f"of {len(members.listed)} members these do not answer at an endpoint in zone.toml: {names}; start them, "
            "or add their endpoints, because each stands still for its turn and the others must carry on"
        )


def _require_room(members: Members) -> None:
    """Refuse to end an alarm that would be raised again at once. Raises NoSpace."""
    for asked in members.answered:
        size, quota = asked.status.dbSize, asked.quota
        if members.full and quota and size > STILL_FULL * quota:
            config = quote(str(members.config))
            compact, defrag = (f"`fedmarket etcd {name} --config {config}`" for name in ("compact", "defrag"))
            raise NoSpace(
                f"the database of member {asked.name} still has {human_size(size)} of the {human_size(quota)} that its "
                f"quota allows: run {compact} and {defrag} first or, where that was done, raise its quota (that of an "
                "embedded etcd is [etcd] quota_mb) and restart it"
            )


def _size(value: int | None) -> str:
    return plain(None) if value is None else human_size(value)
