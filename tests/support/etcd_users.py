"""An etcd with access control by user and password: the users, what they may do, and what etcd tells of them."""

import asyncio
import re
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from federation.etcd.auth import Login
from federation.etcd.client import EtcdClient, connect
from federation.etcd.ranges import below
from fedmarket.pb.etcd import auth_pb2 as auth
from fedmarket.pb.etcd import rpc_pb2 as rpc
from tests.support.etcd import EtcdServer

ROOT = Login("root", "root-password")
ZONE = Login("zone", "zone-password")
OWN, FOREIGN = "/own/", "/foreign/"

Kind: TypeAlias = auth.Permission.Type.ValueType


def jwt_flags(directory: Path, seconds: int) -> list[str]:
    """Return the flags of an etcd whose tokens end after `seconds`, whether they are used or not."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = directory / "jwt.key", directory / "jwt.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return [f"--auth-token=jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl={seconds}s"]


async def wall(server: EtcdServer) -> None:
    """Let in nobody but root, who may do all, and the zone, which may use what is below OWN."""
    async with connect([server.endpoint]) as client:
        await add_user(client, ROOT.user, ROOT.password)
        await add_user(client, ZONE.user, ZONE.password)
        await add_role(client, ZONE.user)
        await permit(client, OWN)
        await let_in(client)
        await enable(client)


@asynccontextmanager
async def as_root(server: EtcdServer) -> AsyncIterator[EtcdClient]:
    """Connect as who may do all."""
    async with connect([server.endpoint], login=ROOT) as client:
        yield client


async def add_user(client: EtcdClient, user: str, password: str = "") -> None:
    """Add a user: known by its password or, without one, by its certificate."""
    options = auth.UserAddOptions(no_password=not password)
    request = rpc.AuthUserAddRequest(name=user, password=password, options=options)
    await client.call(client.auth.UserAdd, request, doing="add a user")


async def add_role(client: EtcdClient, role: str) -> None:
    await client.call(client.auth.RoleAdd, rpc.AuthRoleAddRequest(name=role), doing="add a role")


async def permit(
    client: EtcdClient, prefix: str, role: str = ZONE.user, kind: Kind = auth.Permission.READWRITE
) -> None:
    """Let a role use what is below a prefix."""
    key, end = below(prefix)
    permission = auth.Permission(permType=kind, key=key, range_end=end)
    request = rpc.AuthRoleGrantPermissionRequest(name=role, perm=permission)
    await client.call(client.auth.RoleGrantPermission, request, doing="grant a permission")


async def let_in(client: EtcdClient, user: str = ZONE.user, role: str = ZONE.user) -> None:
    """Give a user a role."""
    request = rpc.AuthUserGrantRoleRequest(user=user, role=role)
    await client.call(client.auth.UserGrantRole, request, doing="grant a role")


async def enable(client: EtcdClient) -> None:
    """Make root the one who may do all, and let in nobody else without a role."""
    await let_in(client, "root", "root")
    await client.call(client.auth.AuthEnable, rpc.AuthEnableRequest(), doing="enable access control")


async def shut_out(client: EtcdClient) -> None:
    """Take the role of the zone's user away."""
    request = rpc.AuthUserRevokeRoleRequest(name=ZONE.user, role=ZONE.user)
    await client.call(client.auth.UserRevokeRole, request, doing="revoke a role")


async def logins(server: EtcdServer) -> int:
    """Return how often somebody has sent a password to this server since it started."""

    def fetch() -> str:
        with urllib.request.urlopen(f"http://{server.endpoint}/metrics", timeout=30) as answer:
            text: str = answer.read().decode()
        return text

    line = r'^grpc_server_started_total{grpc_method="Authenticate".*} (\d+)$'
    found = re.search(line, await asyncio.to_thread(fetch), re.MULTILINE)
    return int(found[1]) if found else 0
