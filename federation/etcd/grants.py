"""What a zone may do in an etcd that it shares: a role of its own, and a user who has it.

The fourth place of the rule: whoever holds the zone's certificate reads and writes below `catalog/<zone>/` and
`zone/<zone>/`, reads below `catalog/`, and nothing else. `apply` needs etcd's root; agents never call it.
"""

import re
import shlex
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from federation.etcd.client import EtcdClient
from federation.etcd.errors import AuthDisabled
from federation.etcd.ranges import below, decode
from federation.keys import Keyspace
from fedmarket.errors import BadInput, Denied, NotFound, Refused
from fedmarket.pb.etcd import rpc_pb2 as rpc
from fedmarket.pb.etcd.auth_pb2 import Permission, UserAddOptions

ROOT = "root"
"""etcd's user and role that may do everything; both must exist before access control can be enabled."""

ENFORCED_SINCE = {(3, 4): 44, (3, 5): 30, (3, 6): 11}
"""Patch of each release of etcd from which on no transaction gets past the permissions of its user.

Before, the operations of a nested transaction were not checked at all (CVE-2026-33343), nor the leases of puts in a
transaction (CVE-2026-44283). Newer releases than these never had the faults; older ones were not mended.
"""

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)", re.ASCII)

Range = tuple[bytes, bytes]
"""`key` and `range_end` of a permission, by which etcd tells the permissions of a role apart."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Right:
    """What may be done with all keys below a prefix."""

    prefix: str
    write: bool

    @property
    def word(self) -> str:
        """The right in etcdctl's words."""
        return "readwrite" if self.write else "read"


@dataclass(frozen=True, slots=True)
class Grant:
    """A zone's role and the user who is to have it."""

    keyspace: Keyspace
    user: str

    def __post_init__(self) -> None:
        if not self.user or not self.user.isprintable():
            raise BadInput(f"{self.user!r} is no name of an etcd user: give the common name of the zone's certificate")
        if self.user == ROOT:
            raise BadInput("etcd's user root may do everything already: give the zone a user of its own")

    @property
    def role(self) -> str:
        """The role's name: the prefix that is the zone's alone, so that it says what it is and nobody else has it."""
        return self.keyspace.mine.rstrip("/")

    @property
    def rights(self) -> Sequence[Right]:
        """All that the role may do."""
        return (
            Right(self.keyspace.own, write=True),
            Right(self.keyspace.mine, write=True),
            Right(f"{self.keyspace.prefix}catalog/", write=False),
        )

    def commands(self, *, password_file: Path | None, enable: bool) -> list[str]:
        """Return the commands of a shell that do by etcdctl what `apply` does where nothing is there yet."""
        role, user = shlex.quote(self.role), shlex.quote(self.user)
        secret = f"--interactive=false < {shlex.quote(str(password_file))}" if password_file else "--no-password"
        permit = "etcdctl role grant-permission --prefix=true"
        return [
            f"etcdctl role add {role}",
            *(f"{permit} {role} {right.word} {shlex.quote(right.prefix)}" for right in self.rights),
            f"etcdctl user add {user} {secret}",
            f"etcdctl user grant-role {user} {role}",
            *(["etcdctl auth enable"] if enable else []),
        ]


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did and found."""

    changes: Sequence[str]
    """One line for each change; none: everything was as it should be."""
    user_made: bool
    other_roles: Sequence[str]
    """Roles of the user beside the zone's, with whatever they permit."""


async def apply(client: EtcdClient, grant: Grant, password: str | None = None) -> Applied:
    """Make the role and the user if they are not there, and give the role exactly the zone's rights.

    With `password` a new user can log in by it; else, and for a user that is there, its certificate alone counts.
    Repeatable, also after it was interrupted: what is missing is granted before what is too much is revoked. Raises
    Denied if the client is not root's, and StoreUnavailable if etcd does not answer.
    """
    changes = await _settle_role(client, grant)
    roles = await _roles_of(client, grant.user)
    if roles is None:
        options = UserAddOptions(no_password=password is None)
        added = rpc.AuthUserAddRequest(name=grant.user, password=password or "", options=options)
        await client.call(client.auth.UserAdd, added, doing=f"make the user {grant.user}")
        changes.append(f"made the user {grant.user}")
    if grant.role not in (roles or ()):
        given = rpc.AuthUserGrantRoleRequest(user=grant.user, role=grant.role)
        await client.call(client.auth.UserGrantRole, given, doing=f"give the user {grant.user} its role")
        changes.append(f"gave the user {grant.user} the role {grant.role}")
    return Applied(changes, roles is None, sorted(set(roles or ()) - {grant.role}))


async def is_enabled(client: EtcdClient) -> bool:
    """Whether etcd checks permissions at all."""
    try:
        # Nobody has an empty name: etcd says whether it is the name that is wrong, or the question. 3.4 knows no
        # AuthStatus.
        await client.call(client.auth.Authenticate, rpc.AuthenticateRequest(), doing="tell whether it checks users")
    except AuthDisabled:
        return False
    except Denied:
        return True
    return True


async def enable(client: EtcdClient, me: str) -> None:
    """Make etcd check permissions from now on.

    `me` is the etcd user whom this client will then be; empty: nobody. Raises Refused where etcd would not do it, or
    where its administrator would be shut out.
    """
    roles = await _roles_of(client, ROOT)
    if roles is None:
        raise Refused(
            "etcd has no user root, without whom access control cannot be enabled: run `etcdctl user add root "
            "--no-password` and `etcdctl user grant-role root root`, and make a certificate with the common name root"
        )
    if ROOT not in roles:
        raise Refused(
            "etcd's user root does not have the role root, without which access control cannot be enabled: run "
            "`etcdctl user grant-role root root`"
        )
    if not me or ROOT not in (await _roles_of(client, me) or ()):
        raise Refused(
            f"access control would shut you out, because {f'etcd user {me}' if me else 'who you are, without a name,'} "
            "does not have the role root: come with a certificate whose common name is root, or with root's password"
        )
    await client.call(client.auth.AuthEnable, rpc.AuthEnableRequest(), doing="enable access control")


def is_enforced(version: str) -> bool:
    """Whether an etcd of this version is known to let nobody get past its permissions."""
    numbers = _VERSION.match(version)
    if numbers is None:
        return False
    major, minor, patch = map(int, numbers.groups())
    return (major, minor) > max(ENFORCED_SINCE) or patch >= ENFORCED_SINCE.get((major, minor), patch + 1)


async def _settle_role(client: EtcdClient, grant: Grant) -> list[str]:
    """Make the role what it should be; return what was changed."""
    role, changes = grant.role, list[str]()
    found = await _unless_missing(
        client.call(client.auth.RoleGet, rpc.AuthRoleGetRequest(role=role), doing=f"show the role {role}")
    )
    if found is None:
        await client.call(client.auth.RoleAdd, rpc.AuthRoleAddRequest(name=role), doing=f"make the role {role}")
        changes.append(f"made the role {role}")
    held = {(perm.key, perm.range_end): perm.permType for perm in found.perm} if found else {}
    wanted = {below(right.prefix): right for right in grant.rights}
    for (key, end), right in wanted.items():
        kind = Permission.READWRITE if right.write else Permission.READ
        if held.get((key, end)) != kind:
            permission = Permission(permType=kind, key=key, range_end=end)
            added = rpc.AuthRoleGrantPermissionRequest(name=role, perm=permission)
            await client.call(client.auth.RoleGrantPermission, added, doing=f"grant {right.word} on {right.prefix}")
            changes.append(f"granted {right.word} on {right.prefix}")
    for key, end in held.keys() - wanted.keys():
        told = _told((key, end))
        removed = rpc.AuthRoleRevokePermissionRequest(role=role, key=key, range_end=end)
        await client.call(client.auth.RoleRevokePermission, removed, doing=f"revoke what {role} may do with {told}")
        changes.append(f"revoked {Permission.Type.Name(held[key, end]).lower()} on {told}")
    return changes


async def _roles_of(client: EtcdClient, user: str) -> Sequence[str] | None:
    """Return the roles of a user; None if there is no such user."""
    asked = rpc.AuthUserGetRequest(name=user)
    found = await _unless_missing(client.call(client.auth.UserGet, asked, doing=f"show the user {user}"))
    return None if found is None else found.roles


async def _unless_missing(answer: Awaitable[Answer]) -> Answer | None:
    """Return the answer, or None if etcd says that there is no such user or role."""
    try:
        return await answer
    except NotFound:
        return None


def _told(held: Range) -> str:
    """Return a permission's range of keys for a person."""
    key, end = decode(held[0]), decode(held[1])
    if not end:
        return key
    return f"{key}*" if held == below(key) else f"{key} up to {end}"
