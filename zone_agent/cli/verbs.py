"""The verbs that markets, apps and images have in common, as commands of each of their groups."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedmarket.errors import BadInput
from fedmarket.pb.fedmarket.v1.change_pb2 import ChangeResponse, Enable, Monitor, Rename, SetLock, Update, Verb
from fedmarket.pb.fedmarket.v1.record_pb2 import LOCK_LEVEL_NONE, LockLevel, Template
from fedmarket.template import parse
from zone_agent.cli.changes import RequestId, ask_change
from zone_agent.cli.client import Client, client_command
from zone_agent.cli.permissions import chmod, chown

STDIN = "-"
MAX_TEMPLATE_BYTES = 1 << 20
"""Of a file that is read as a template: far more than a record holds."""

Ref = Annotated[str, typer.Argument(metavar="REF", help="Id or name; name@zone where that is ambiguous.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The new name.")]
Mode = Annotated[
    str,
    typer.Argument(metavar="MODE", help="640, um-u-----, or what is to change: g+u,o-um (use, manage, administer)."),
]
User = Annotated[str, typer.Argument(metavar="USER", help="Id, oneadmin or serveradmin.")]
Group = Annotated[str, typer.Argument(metavar="GROUP", help="Id, oneadmin or users.")]
OptionalGroup = Annotated[str | None, typer.Argument(metavar="GROUP", help="Id, oneadmin or users.")]
File = Annotated[
    str | None, typer.Argument(metavar="FILE", help='Holds NAME = "value" lines; - is stdin. Replaces all there is.')
]
Append = Annotated[
    bool, typer.Option("--append", "-a", help="Keep what FILE does not name; NAME = [ ] in it removes NAME.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="In place of FILE: one attribute, all others stay; repeatable."),
]


def add_verbs(commands: typer.Typer, kind: str) -> None:
    """Add the verbs that markets, apps and images have."""

    @client_command(commands, "rename")
    def rename(client: Client, ref: Ref, name: Name, request_id: RequestId = None) -> None:
        """Give it another name."""
        changed = ask_change(client, kind, ref, Verb(rename=Rename(name=name)), request_id)
        _say(client, changed, f"renamed {kind} {changed.id} to {name}")

    @client_command(commands, "chmod")
    def change_mode(client: Client, ref: Ref, mode: Mode, request_id: RequestId = None) -> None:
        """Change who may use, manage and administer it."""
        changed = ask_change(client, kind, ref, Verb(chmod=chmod(mode)), request_id)
        _say(client, changed, f"changed the permissions of {kind} {changed.id} by {mode}")

    @client_command(commands, "chown")
    def change_owner(
        client: Client,
        ref: Ref,
        user: User,
        group: OptionalGroup = None,
        request_id: RequestId = None,
    ) -> None:
        """Give it to another user, and to a group."""
        changed = ask_change(client, kind, ref, Verb(chown=chown(user, group)), request_id)
        _say(client, changed, f"gave {kind} {changed.id} to {user}{f' and group {group}' if group else ''}")

    @client_command(commands, "chgrp")
    def change_group(client: Client, ref: Ref, group: Group, request_id: RequestId = None) -> None:
        """Give it to another group."""
        changed = ask_change(client, kind, ref, Verb(chown=chown(None, group)), request_id)
        _say(client, changed, f"gave {kind} {changed.id} to group {group}")

    @client_command(commands, "update")
    def update(
        client: Client,
        ref: Ref,
        file: File = None,
        append: Append = False,
        settings: Settings = None,
        request_id: RequestId = None,
    ) -> None:
        """Change its attributes: all of them, or by --append or --set only those that are named."""
        wanted = _update(file, settings or [], append=append)
        changed = ask_change(client, kind, ref, Verb(update=wanted), request_id)
        _say(client, changed, f"updated {kind} {changed.id}")

    @client_command(commands, "enable")
    def enable(client: Client, ref: Ref, request_id: RequestId = None) -> None:
        """Let it be used again."""
        changed = ask_change(client, kind, ref, Verb(enable=Enable(enabled=True)), request_id)
        _say(client, changed, f"enabled {kind} {changed.id}")

    @client_command(commands, "disable")
    def disable(client: Client, ref: Ref, request_id: RequestId = None) -> None:
        """Keep it from being used until it is enabled again. Nothing of it is lost."""
        changed = ask_change(client, kind, ref, Verb(enable=Enable(enabled=False)), request_id)
        _say(client, changed, f"disabled {kind} {changed.id}")


def add_locks(commands: typer.Typer, kind: str) -> None:
    """Add lock and unlock, which apps and images have."""

    @client_command(commands, "lock")
    def lock(
        client: Client,
        ref: Ref,
        use: Annotated[bool, typer.Option("--use", help="Against everything: the default.")] = False,
        manage: Annotated[bool, typer.Option("--manage", help="Against every change.")] = False,
        admin: Annotated[bool, typer.Option("--admin", help="Against changes of who administers it.")] = False,
        everything: Annotated[bool, typer.Option("--all", help="The same as --use.")] = False,
        request_id: RequestId = None,
    ) -> None:
        """Lock it, against administrators, too, until it is unlocked."""
        chosen = [name for name, given in (("USE", use or everything), ("MANAGE", manage), ("ADMIN", admin)) if given]
        if len(chosen) > 1:
            raise BadInput("several levels of the lock are given: give one of --use, --manage, --admin and --all")
        level = LockLevel.Value(f"LOCK_LEVEL_{chosen[0] if chosen else 'USE'}")
        changed = ask_change(client, kind, ref, Verb(lock=SetLock(level=level)), request_id)
        _say(client, changed, f"locked {kind} {changed.id}")

    @client_command(commands, "unlock")
    def unlock(client: Client, ref: Ref, request_id: RequestId = None) -> None:
        """Lift its lock."""
        changed = ask_change(client, kind, ref, Verb(lock=SetLock(level=LOCK_LEVEL_NONE)), request_id)
        _say(client, changed, f"unlocked {kind} {changed.id}")


def add_monitor(commands: typer.Typer) -> None:
    """Add monitor, which markets have."""

    @client_command(commands, "monitor")
    def monitor(client: Client, ref: Ref, request_id: RequestId = None) -> None:
        """Measure its space now."""
        changed = ask_change(client, "market", ref, Verb(monitor=Monitor()), request_id)
        _say(client, changed, f"measured market {changed.id}")


def parse_attributes(pairs: list[str]) -> dict[str, str]:
    """Return what several --set say. Raises BadInput."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not (key and separator):
            raise BadInput(f"--set {pair!r} is not KEY=VALUE: write for instance --set PUBLIC_DIR=/srv/market")
        if key in found:
            raise BadInput(f"--set {key} is given twice: give it once")
        found[key] = value
    return found


def _say(client: Client, changed: ChangeResponse, sentence: str) -> None:
    if client.out.as_json:
        client.out.show(changed)
    else:
        client.out.done(sentence if changed.visible else f"{sentence}, which is not yet visible here")


def _update(file: str | None, settings: list[str], *, append: bool) -> Update:
    if (file is None) == (not settings):
        raise BadInput("an update needs either a FILE or --set: give one of them (- is stdin)")
    if file is not None:
        return Update(template=parse(_text(file)), append=append)
    template = Template()
    for name, value in parse_attributes(settings).items():
        template.attributes.add(name=name, value=value)
    return Update(template=template, append=True)


def _text(file: str) -> str:
    try:
        if file == STDIN:
            held = sys.stdin.buffer.read(MAX_TEMPLATE_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                held = opened.read(MAX_TEMPLATE_BYTES + 1)
        if len(held) > MAX_TEMPLATE_BYTES:
            raise BadInput(f"{file} is over {MAX_TEMPLATE_BYTES} bytes, too long for a template: give another file")
        return held.decode()
    except OSError as error:
        raise BadInput(f"{file} cannot be read ({error.strerror}): give a file of NAME = value lines") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is no UTF-8 text: give a file of NAME = value lines") from error
