"""The members of a zone's own etcd, as its zone.toml names them: each connected to, and asked how it is."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

from federation.etcd import operator
from federation.etcd.alarms import NOSPACE, alarms_in
from federation.etcd.auth import Login
from federation.etcd.child import find_child
from federation.etcd.operator import Access, Listed
from federation.store import StoreUnavailable
from fedmarket.errors import BadInput, Denied, FedmarketError, Unavailable
from fedmarket.pb.etcd.rpc_pb2 import StatusResponse
from fedmarket.units import MIB
from zone_agent.access import password_in, refuse_clear_text, root_login, tls_credentials
from zone_agent.address import Address
from zone_agent.config import Config, EtcdSettings, load

UPKEEP_SECONDS = 600.0
"""For what reads or writes a whole database."""


@dataclass(frozen=True, slots=True)
class AsRoot:
    """Who to be instead of the zone: etcd's root, by its certificate or its password."""

    cert: Path | None = None
    key: Path | None = None
    user: str | None = None
    password_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A member that answered."""

    connection: operator.Member
    status: StatusResponse
    cluster: Sequence[Listed]
    """All members, as this one lists them."""
    quota: int
    """Bytes that its database may have; 0: it does not tell."""

    @property
    def listed(self) -> Listed:
        """What the cluster lists of it."""
        return next(each for each in self.cluster if each.id == self.status.header.member_id)

    @property
    def endpoint(self) -> str:
        """Where it was reached."""
        return self.connection.where

    @property
    def name(self) -> str:
        """How people call it."""
        return self.listed.name or f"{self.listed.id:x}"

    @property
    def leads(self) -> bool:
        """Whether it is the leader."""
        return self.status.leader == self.listed.id

    def again(self) -> "Asked":
        """Ask it again."""
        return replace(self, status=self.connection.status())


@dataclass(frozen=True, slots=True)
class Members:
    """What is known of an etcd."""

    config: Path
    """The zone.toml that names it."""
    answered: Sequence[Asked]
    """At least one, each once, the leader last."""
    silent: dict[str, str]
    """The endpoints that did not answer, and why."""

    @property
    def listed(self) -> Sequence[Listed]:
        """All members of the cluster, also those of which zone.toml has no endpoint, by name."""
        return sorted(self.answered[0].cluster, key=lambda listed: (listed.name, listed.id))

    @property
    def revision(self) -> int:
        """The newest revision that a member has reached."""
        return max(asked.status.header.revision for asked in self.answered)

    @property
    def full(self) -> bool:
        """Whether etcd takes no more changes."""
        return any(alarm.kind == NOSPACE for asked in self.answered for alarm in alarms_in(asked.status))

    @property
    def unreached(self) -> Sequence[Listed]:
        """The members of the cluster that did not answer, or have no endpoint in zone.toml."""
        reached = {asked.listed.id for asked in self.answered}
        return [listed for listed in self.listed if listed.id not in reached]


@contextmanager
def members_of(file: Path, root: AsRoot, seconds: float | None) -> Generator[Members, None, None]:
    """Connect to the members of the etcd of a zone; once connected, each call may take `seconds`.

    Raises ConfigError, BadInput, Unavailable if none answers, and Denied: also of what is asked inside, in words that
    say whom etcd would listen to.
    """
    config = load(file)
    access = _access(config.etcd, root)
    with ExitStack() as stack:
        answered, silent = _connect_all(config, access, stack)
        try:
            for asked in answered:
                asked.connection.allow(seconds or UPKEEP_SECONDS)
            yield Members(config.file, answered, silent)
        except Denied as error:
            user = access.login.user if access.login else "this user"
            raise Denied(
                f"etcd at {', '.join(asked.endpoint for asked in answered)} does not let {user} do that: come as its "
                "root, by --cert and --key or by --root-user and --root-password-file"
            ) from error


def _connect_all(config: Config, access: Access, stack: ExitStack) -> tuple[Sequence[Asked], dict[str, str]]:
    """Return the members that answered, the leader last, and why which endpoints did not."""
    endpoints, child = _endpoints(config)
    found: dict[int, Asked] = {}
    silent: dict[str, StoreUnavailable] = {}
    for endpoint in endpoints:
        try:
            seconds = config.timeouts.etcd_call_seconds
            connection = stack.enter_context(operator.connect(endpoint, access, seconds))
            status, listed = connection.status(), connection.members()
        except StoreUnavailable as error:
            silent[endpoint] = error
            continue
        quota = config.etcd.quota_mb * MIB if config.etcd.embedded else status.dbSizeQuota
        found.setdefault(status.header.member_id, Asked(connection, status, listed, quota))
    answered = sorted(found.values(), key=lambda asked: asked.leads)
    if not answered or (child and answered[0].name != child):
        raise _nobody(config, silent)
    return answered, {endpoint: error.message for endpoint, error in silent.items()}


def _endpoints(config: Config) -> tuple[Sequence[str], str]:
    """Return where the members are and, of an embedded etcd, the name of the one that there is."""
    if not config.etcd.embedded:
        return [str(Address.parse(endpoint)) for endpoint in config.etcd.endpoints], ""
    try:
        child = find_child(config.layout.etcd)
    except OSError as error:
        raise BadInput(
            f"{config.layout.etcd} cannot be read ({error.strerror}): run this as the user who runs the agent"
        ) from error
    if child is None:
        raise _nobody(config, {})
    return [child[0]], child[1]


def _nobody(config: Config, silent: dict[str, StoreUnavailable]) -> FedmarketError:
    if config.etcd.embedded:
        return Unavailable(
            f"the agent of zone {config.zone.name} does not run, and its etcd runs only with it: start it by "
            f"`fedmarket agent run --config {quote(str(config.file))}`"
        )
    return next(iter(silent.values()))


def _access(etcd: EtcdSettings, root: AsRoot) -> Access:
    """Return who we are: what zone.toml says of the zone or, where it is given, etcd's root."""
    if (root.cert is None) != (root.key is None):
        raise BadInput("--cert and --key go together: give both or neither")
    if root.cert is not None and etcd.tls_ca is None:
        raise BadInput("--cert is for TLS, which needs [etcd] tls_ca: set it in zone.toml")
    login = root_login(root.user, root.password_file)
    if login is None and root.cert is None and etcd.password_file is not None:
        login = Login(etcd.user, password_in(etcd.password_file))
    if login is not None and etcd.tls_ca is None:
        refuse_clear_text(etcd.endpoints, "set [etcd] tls_ca")
    cert, key = (root.cert, root.key) if root.cert else (etcd.tls_cert, etcd.tls_key)
    if etcd.tls_ca is not None:
        tls_credentials(etcd.tls_ca, cert, key, "give files in PEM")
    return Access(etcd.tls_ca, cert, key, etcd.tls_server_name, login)
