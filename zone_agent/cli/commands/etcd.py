"""`fedmarket etcd`: a zone's own etcd is looked after (see etcd_upkeep.py), and one that is shared is prepared, here.

No client commands: they need no credentials of the zone.
"""

import asyncio
import json as json_text
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from cryptography import x509
from cryptography.x509.oid import NameOID

from federation.etcd import grants
from federation.etcd.auth import Login
from federation.etcd.client import EtcdClient, connect
from federation.etcd.grants import Applied, Grant
from federation.keys import Keyspace, check_zone_id
from federation.store import StoreUnavailable
from fedmarket.errors import BadInput, Denied, Unavailable
from zone_agent.access import password_in, refuse_clear_text, root_login, tls_credentials
from zone_agent.address import Address
from zone_agent.cli.commands.etcd_upkeep import commands
from zone_agent.cli.output import plain
from zone_agent.config import EtcdSettings

DEFAULT_ENDPOINT = "127.0.0.1:2379"
DEFAULT_PREFIX = EtcdSettings().prefix

_CLOSED = "it closed the connection, so give --ca, --cert and --key where it speaks TLS, and none where it does not"
_UNREACHABLE = (
    ("Hostname Verification", "its certificate bears another name, so give the right one by --server-name"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is from another authority, so give that one by --ca"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS, so leave out --ca, --cert and --key"),
    ("TSI_DATA_CORRUPTED", _CLOSED),
    ("Socket closed", _CLOSED),
)
"""What gRPC says of a connection that was not made, and what is the matter then."""


@commands.command("grant")
def grant(
    zone_id: Annotated[int, typer.Option("--zone-id", metavar="ID", help="Number of the zone, 0 to 2146.")],
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint", metavar="HOST:PORT", help=f"A member of the etcd; repeatable. Without: {DEFAULT_ENDPOINT}."
        ),
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="PREFIX", help="As in [etcd] of the zones' zone.toml.")
    ] = DEFAULT_PREFIX,
    user: Annotated[
        str | None,
        typer.Option(
            "--user",
            metavar="NAME",
            help="The zone's user in etcd: the common name of its certificate. Without: fedmarket-zone-ID.",
        ),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file",
            metavar="FILE",
            help="File that holds a password for the user, if it is to be made. Without: its certificate alone counts.",
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="Authorities (PEM) of the members' certificates; turns TLS on."),
    ] = None,
    cert: Annotated[
        Path | None, typer.Option("--cert", metavar="FILE", help="Certificate (PEM) of etcd's root to come with.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Private key (PEM) of --cert.")] = None,
    server_name: Annotated[
        str | None,
        typer.Option(
            "--server-name",
            metavar="NAME",
            help="Name that the members' certificates bear, where it is not the host of the endpoint.",
        ),
    ] = None,
    root_user: Annotated[
        str | None, typer.Option("--root-user", metavar="NAME", help="User with the role root to log in as.")
    ] = None,
    root_password_file: Annotated[
        Path | None, typer.Option("--root-password-file", metavar="FILE", help="File that holds its password.")
    ] = None,
    enable_auth: Annotated[
        bool, typer.Option("--enable-auth", help="Then have etcd check permissions, if it does not yet.")
    ] = False,
    print_only: Annotated[
        bool, typer.Option("--print", help="Change nothing: print what to do as commands of etcdctl.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Let a zone use an etcd that it shares: a role with exactly its rights, and a user who has it.

    Run it as etcd's root. Run again, it mends the role and says what it changed.
    """
    asked = Grant(Keyspace(_checked(prefix), check_zone_id(zone_id)), user or f"fedmarket-zone-{zone_id}")
    if print_only:
        lines = asked.commands(password_file=password_file, enable=enable_auth)
        _print({"commands": lines}, lines, as_json=json)
        return
    etcd = _Etcd(
        endpoints=[str(Address.parse(each)) for each in endpoint or [DEFAULT_ENDPOINT]],
        credentials=_credentials(ca, cert, key),
        server_name=server_name,
        login=root_login(root_user, root_password_file),
        certified_user=_common_name(cert) if cert else "",
    )
    password = password_in(password_file) if password_file else None
    if etcd.credentials is None and (etcd.login or password):
        refuse_clear_text(etcd.endpoints, "give --ca")
    _report(asked, asyncio.run(_grant(etcd, asked, password, enable=enable_auth)), as_json=json)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Etcd:
    """Which etcd, and as whom."""

    endpoints: Sequence[str]
    credentials: grpc.ChannelCredentials | None
    server_name: str | None
    login: Login | None
    certified_user: str

    @property
    def user(self) -> str:
        """Who we are to etcd once it checks: a login has precedence over a certificate there."""
        return self.login.user if self.login else self.certified_user


@dataclass(frozen=True, slots=True)
class _Done:
    applied: Applied
    enabled: bool
    warnings: Sequence[str]


async def _grant(etcd: _Etcd, asked: Grant, password: str | None, *, enable: bool) -> _Done:
    try:
        async with _connected(etcd) as client:
            version = (await client.status()).version
            applied = await grants.apply(client, asked, password)
            changes = list(applied.changes)
            enabled = await grants.is_enabled(client)
            if enable and not enabled:
                await grants.enable(client, etcd.user)
                changes.append("enabled access control")
                enabled = True
    except Denied as error:
        raise Denied(
            f"etcd at {', '.join(etcd.endpoints)} does not take this command from {etcd.user or 'nobody'}: come as its "
            "root, by --cert and --key or by --root-user and --root-password-file"
        ) from error
    applied = Applied(changes, applied.user_made, applied.other_roles)
    return _Done(applied, enabled, _warnings(asked, applied, version, enabled=enabled, with_password=bool(password)))


@asynccontextmanager
async def _connected(etcd: _Etcd) -> AsyncGenerator[EtcdClient, None]:
    async with AsyncExitStack() as stack:
        connection = connect(
            etcd.endpoints, credentials=etcd.credentials, server_name=etcd.server_name, login=etcd.login
        )
        try:
            client = await stack.enter_async_context(connection)
        except StoreUnavailable as error:
            advice = next((advice for sign, advice in _UNREACHABLE if sign in error.message), None)
            if advice is None:
                raise
            raise Unavailable(f"etcd at {', '.join(etcd.endpoints)} cannot be reached: {advice}") from error
        yield client


def _warnings(asked: Grant, applied: Applied, version: str, *, enabled: bool, with_password: bool) -> list[str]:
    warnings = []
    if not enabled:
        warnings.append("etcd does not check permissions yet: enable its access control by --enable-auth")
    if not grants.is_enforced(version):
        newer = ", ".join(f"{major}.{minor}.{patch}" for (major, minor), patch in grants.ENFORCED_SINCE.items())
        warnings.append(
            f"etcd {version} lets every user get past permissions by a nested transaction (CVE-2026-33343): "
            f"use {newer} or newer where zones do not trust each other"
        )
    if applied.other_roles:
        roles = ", ".join(applied.other_roles)
        warnings.append(f"the user {asked.user} also has what these roles permit: {roles}")
    if with_password and not applied.user_made:
        warnings.append(f"the user {asked.user} was there already, and keeps the password that it has")
    return warnings


def _report(asked: Grant, done: _Done, *, as_json: bool) -> None:
    facts = {
        "zone_id": asked.keyspace.zone,
        "user": asked.user,
        "role": asked.role,
        "rights": [{"right": right.word, "prefix": right.prefix} for right in asked.rights],
        "changes": done.applied.changes,
        "access_control": done.enabled,
        "warnings": done.warnings,
    }
    lines = [
        f"zone {asked.keyspace.zone}: user {asked.user}, role {asked.role}",
        *(f"  {right.word:<9} {right.prefix}" for right in asked.rights),
        *(done.applied.changes or ["nothing had to be changed"]),
        *(f"warning: {warning}" for warning in done.warnings),
    ]
    _print(facts, lines, as_json=as_json)


def _print(facts: dict[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    text = json_text.dumps(facts, indent=2, ensure_ascii=False) if as_json else "\n".join(map(plain, lines))
    print(text)


def _checked(prefix: str) -> str:
    if not (prefix.startswith("/") and prefix.endswith("/") and prefix.isprintable()):
        raise BadInput(f"the prefix {prefix!r} must begin and end with a slash, as {DEFAULT_PREFIX} does")
    return prefix


def _credentials(ca: Path | None, cert: Path | None, key: Path | None) -> grpc.ChannelCredentials | None:
    """Return the credentials of a TLS client; None: no TLS."""
    if (cert is None) != (key is None):
        raise BadInput("--cert and --key go together: give both or neither")
    if ca is None:
        if cert is not None:
            raise BadInput("--cert is for TLS, which needs --ca: give the authorities of the members' certificates")
        return None
    return tls_credentials(ca, cert, key, "give files in PEM")


def _common_name(cert: Path) -> str:
    """Return the name that etcd takes from a certificate; empty if it has none."""
    names = x509.load_pem_x509_certificate(cert.read_bytes()).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""
