"""`fedmarket etcd grant` on a real etcd: what it makes, mends and enables, and what it says when it cannot."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from federation.etcd.auth import Login
from federation.etcd.client import EtcdClient, connect
from federation.etcd.ranges import below
from federation.etcd.store import EtcdStore
from fedmarket.errors import Denied
from fedmarket.pb.etcd import rpc_pb2 as rpc
from fedmarket.pb.etcd.auth_pb2 import Permission, UserAddOptions
from tests.support.etcd import VERSIONS, EtcdFactory, EtcdServer
from tests.support.stores import put
from tests.unit.cli.conftest import Ran
from zone_agent.cli.main import run

T = TypeVar("T")

ROLE, USER = "/fedmarket/1/zone/7", "fedmarket-zone-7"
OWN, MINE, CATALOGS = "/fedmarket/1/catalog/7/", "/fedmarket/1/zone/7/", "/fedmarket/1/catalog/"
READ, READWRITE = Permission.READ, Permission.READWRITE
EXACTLY = {(*below(OWN), READWRITE), (*below(MINE), READWRITE), (*below(CATALOGS), READ)}

GrantZone = Callable[..., Ran]


@pytest.fixture
def etcd(request: pytest.FixtureRequest, etcd_factory: EtcdFactory) -> EtcdServer:
    """An etcd without users: of the version that the test asks for, if it does."""
    return etcd_factory(version=getattr(request, "param", ""))


with_both_versions = pytest.mark.parametrize("etcd", VERSIONS, indirect=True)


@pytest.fixture
def grant(etcd: EtcdServer, capsys: pytest.CaptureFixture[str]) -> GrantZone:
    """Run `fedmarket etcd grant` for zone 7."""

    def command(*options: str) -> Ran:
        capsys.readouterr()
        status = run(["etcd", "grant", "--endpoint", etcd.endpoint, "--zone-id", "7", *options])
        return Ran(status, *capsys.readouterr())

    return command


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.touch(mode=0o600)
    file.write_text("correct horse\n")
    return file


def ask(etcd: EtcdServer, question: Callable[[EtcdClient], Awaitable[T]], login: Login | None = None) -> T:
    """Return what a client of this etcd is answered."""

    async def asked() -> T:
        async with connect([etcd.endpoint], login=login) as client:
            return await question(client)

    return asyncio.run(asked())


async def held(client: EtcdClient) -> set[tuple[bytes, bytes, "Permission.Type.ValueType"]]:
    """Return all that the role may do."""
    found = await client.call(client.auth.RoleGet, rpc.AuthRoleGetRequest(role=ROLE), doing="show the role")
    return {(perm.key, perm.range_end, perm.permType) for perm in found.perm}


async def roles(client: EtcdClient) -> list[str]:
    found = await client.call(client.auth.UserGet, rpc.AuthUserGetRequest(name=USER), doing="show the user")
    return list(found.roles)


async def permit(client: EtcdClient, kind: "Permission.Type.ValueType", key: bytes, end: bytes = b"") -> None:
    permission = Permission(permType=kind, key=key, range_end=end)
    request = rpc.AuthRoleGrantPermissionRequest(name=ROLE, perm=permission)
    await client.call(client.auth.RoleGrantPermission, request, doing="permit")


async def add_user(client: EtcdClient, name: str, password: str = "") -> None:
    request = rpc.AuthUserAddRequest(name=name, password=password, options=UserAddOptions(no_password=not password))
    await client.call(client.auth.UserAdd, request, doing="add a user")


async def give_role(client: EtcdClient, user: str, role: str) -> None:
    request = rpc.AuthUserGrantRoleRequest(user=user, role=role)
    await client.call(client.auth.UserGrantRole, request, doing="give a role")


def test_a_zone_gets_a_user_and_a_role_with_exactly_its_rights(etcd: EtcdServer, grant: GrantZone) -> None:
    made = grant("--json").json

    assert (made["zone_id"], made["user"], made["role"]) == (7, USER, ROLE)
    assert [(right["right"], right["prefix"]) for right in made["rights"]] == [
        ("readwrite", OWN),
        ("readwrite", MINE),
        ("read", CATALOGS),
    ]
    assert len(made["changes"]) == 6
    assert ask(etcd, held) == EXACTLY
    assert ask(etcd, roles) == [ROLE]


def test_the_second_time_nothing_has_to_be_changed(etcd: EtcdServer, grant: GrantZone) -> None:
    assert grant().status == 0

    assert "nothing had to be changed" in grant().out
    assert grant("--json").json["changes"] == []
    assert ask(etcd, held) == EXACTLY


def test_a_role_that_permits_too_much_or_too_little_is_mended(etcd: EtcdServer, grant: GrantZone) -> None:
    async def spoil(client: EtcdClient) -> None:
        await permit(client, READ, *below(OWN))
        await permit(client, READWRITE, *below(CATALOGS))
        await permit(client, READWRITE, *below("/fedmarket/1/zone/8/"))
        await permit(client, READ, b"/fedmarket/1/owner")
        await permit(client, READ, b"/z", b"\0")
        key, end = below(MINE)
        revoked = rpc.AuthRoleRevokePermissionRequest(role=ROLE, key=key, range_end=end)
        await client.call(client.auth.RoleRevokePermission, revoked, doing="revoke")

    assert grant().status == 0
    ask(etcd, spoil)

    changes = grant("--json").json["changes"]

    assert ask(etcd, held) == EXACTLY
    assert sorted(changes) == [
        "granted read on /fedmarket/1/catalog/",
        "granted readwrite on /fedmarket/1/catalog/7/",
        "granted readwrite on /fedmarket/1/zone/7/",
        "revoked read on /fedmarket/1/owner",
        "revoked read on /z up to \0",
        "revoked readwrite on /fedmarket/1/zone/8/*",
    ]


def test_what_the_user_may_do_besides_is_left_and_told(etcd: EtcdServer, grant: GrantZone, password: Path) -> None:
    async def before(client: EtcdClient) -> None:
        await add_user(client, USER)
        added = rpc.AuthRoleAddRequest(name="backup")
        await client.call(client.auth.RoleAdd, added, doing="add a role")
        await give_role(client, USER, "backup")

    ask(etcd, before)

    warnings = "\n".join(grant("--json", "--password-file", str(password)).json["warnings"])

    assert "these roles permit: backup" in warnings
    assert "keeps the password that it has" in warnings
    assert sorted(ask(etcd, roles)) == [ROLE, "backup"]


@with_both_versions
def test_access_control_is_enabled_only_where_its_root_can_come_back(
    etcd: EtcdServer, grant: GrantZone, password: Path, tmp_path: Path
) -> None:
    as_root = ("--root-user", "root", "--root-password-file", str(password))
    root = Login("root", "correct horse")

    unprotected = grant("--json").json
    assert unprotected["access_control"] is False
    assert any("does not check permissions yet" in warning for warning in unprotected["warnings"])

    refused = grant("--enable-auth", *as_root)
    assert (refused.status, "no user root" in refused.sentence) == (4, True)
    ask(etcd, lambda client: add_user(client, "root", "correct horse"))
    refused = grant("--enable-auth", *as_root)
    assert (refused.status, "does not have the role root" in refused.sentence) == (4, True)
    ask(etcd, lambda client: give_role(client, "root", "root"))
    refused = grant("--enable-auth")
    assert (refused.status, "would shut you out" in refused.sentence) == (4, True)

    enabled = grant("--enable-auth", "--json", *as_root).json
    assert (enabled["access_control"], enabled["changes"]) == (True, ["enabled access control"])
    again = grant("--enable-auth", "--json", *as_root).json
    assert (again["access_control"], again["changes"]) == (True, [])
    assert ask(etcd, held, root) == EXACTLY

    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("battery staple")
    for nobody in ((), ("--root-user", "root", "--root-password-file", str(wrong))):
        denied = grant(*nobody)
        assert (denied.status, "come as its root" in denied.sentence) == (5, True)
        assert "staple" not in denied.sentence


@with_both_versions
def test_a_zone_may_come_with_a_password(etcd: EtcdServer, grant: GrantZone, password: Path) -> None:
    async def prepare(client: EtcdClient) -> None:
        await add_user(client, "root", "correct horse")
        await give_role(client, "root", "root")

    async def use(client: EtcdClient) -> None:
        await put(EtcdStore(client), OWN + "head")
        assert await EtcdStore(client).get("/fedmarket/1/catalog/8/head") is None
        with pytest.raises(Denied):
            await put(EtcdStore(client), "/fedmarket/1/catalog/8/head")

    ask(etcd, prepare)
    secret = str(password)
    assert (
        grant("--password-file", secret, "--enable-auth", "--root-user=root", "--root-password-file", secret).status
        == 0
    )

    ask(etcd, use, Login(USER, "correct horse"))


def test_a_prefix_and_a_user_of_ones_own(etcd: EtcdServer, grant: GrantZone) -> None:
    made = grant("--prefix", "/lab/", "--user", "berlin", "--json").json

    assert (made["user"], made["role"]) == ("berlin", "/lab/zone/7")
    assert {right["prefix"] for right in made["rights"]} == {"/lab/catalog/7/", "/lab/zone/7/", "/lab/catalog/"}
