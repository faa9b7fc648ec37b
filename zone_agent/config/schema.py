"""Every setting of zone.toml, with its default, its bounds and why it is there.

The texts are read by people: in the zone.toml that `fedmarket agent init` writes, and in docs/configuration.md.
A class is a table, a field is a key, a tuple of classes is an array of tables.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from federation.keys import MAX_ZONE
from fedmarket.retry import Backoff
from zone_agent.address import MAX_PORT, Address
from zone_agent.config.layout import Layout


@dataclass(frozen=True, slots=True)
class Setting:
    """What is said of a field beside its type and default."""

    doc: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    shown_default: str = ""
    """In words, where the default follows from other settings."""


def setting(doc: str, **rest: Any) -> dict[str, Setting]:
    """Return the metadata of a field. Bounds are inclusive."""
    return {"setting": Setting(doc, **rest)}


def seconds(doc: str) -> dict[str, Setting]:
    """Return the metadata of a time in seconds: above zero, at most a week."""
    return setting(doc, low=0.001, high=7 * 86400)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneSettings:
    """Who this zone is. Neither can be changed once the zone has made its first record."""

    id: int = field(
        metadata=setting("Number of the zone, different in every zone of the federation.", low=0, high=MAX_ZONE)
    )
    name: str = field(metadata=setting("Name of the zone, as people in all zones see it."))


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdSettings:
    """The etcd that holds this zone's catalog and its copies of the catalogs of its peers."""

    embedded: bool = field(
        default=True,
        metadata=setting(
            "Run etcd as a child process of the agent, its data in `etcd/` beside this file. For production, and for "
            "more than one agent per zone, say false and give the endpoints of a cluster."
        ),
    )
    endpoints: tuple[str, ...] = field(
        default=(),
        metadata=setting(
            "Addresses (host:port) of the members of an etcd that runs elsewhere; needs embedded = false. A host "
            "name is looked up again when its member cannot be reached."
        ),
    )
    tls_ca: Path | None = field(
        default=None,
        metadata=setting(
            "Certificates (PEM) of the authorities that the members' certificates must come from; turns TLS on. This "
            "and the other files of [etcd] are read at the start: restart the agent when one has changed."
        ),
    )
    tls_cert: Path | None = field(
        default=None,
        metadata=setting(
            "Certificate chain (PEM) to show to etcd; goes with tls_key. Without a user here, its common name is the "
            "user of etcd's access control."
        ),
    )
    tls_key: Path | None = field(default=None, metadata=setting("Private key (PEM) of tls_cert."))
    tls_server_name: str = field(
        default="",
        metadata=setting(
            "Name that the members' certificates bear, where it is not the host of the endpoint.",
            shown_default="from endpoints",
        ),
    )
    user: str = field(
        default="",
        metadata=setting(
            "User of etcd's access control; goes with password_file. Members on other machines need TLS for it."
        ),
    )
    password_file: Path | None = field(
        default=None,
        metadata=setting("File that holds the user's password on one line, readable by its owner only."),
    )
    binary: str = field(
        default="etcd",
        metadata=setting("The etcd program to run when embedded: a path, or a name to look for on PATH."),
    )
    client_port: int = field(
        default=0,
        metadata=setting("Port on 127.0.0.1 at which an embedded etcd serves; 0: any free one.", low=0, high=MAX_PORT),
    )
    quota_mb: int = field(
        default=2048,
        metadata=setting(
            "Size in MiB that the database of an embedded etcd may have; when it is full, only reading goes on. It "
            "holds the history of `compaction_seconds`, too.",
            low=16,
            high=8192,
        ),
    )
    compaction_seconds: int = field(
        default=3600,
        metadata=setting(
            "An embedded etcd forgets what was overwritten so long ago. A reader that was cut off from it for longer "
            "lists everything anew.",
            low=60,
            high=7 * 86400,
        ),
    )
    prefix: str = field(
        default="/fedmarket/1/",
        metadata=setting("What all keys begin with. Zones that share one etcd use the same prefix."),
    )

    @property
    def external(self) -> dict[str, Path | str]:
        """What is said of how to reach an etcd that runs elsewhere, beside its endpoints: by key, if set."""
        keys = ("tls_ca", "tls_cert", "tls_key", "tls_server_name", "user", "password_file")
        return {key: value for key in keys if (value := getattr(self, key))}

    @property
    def embedded_only(self) -> list[str]:
        """The settings of an embedded etcd's database that are not as they are by default, by key."""
        usual = EtcdSettings()
        return [key for key in ("quota_mb", "compaction_seconds") if getattr(self, key) != getattr(usual, key)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """An address that clients connect to. Beyond this machine it needs TLS, or an explicit `plaintext = true`."""

    listen: Address = field(metadata=setting("Address to listen at."))
    tls_cert: Path | None = field(
        default=None, metadata=setting("Certificate chain (PEM) to serve clients with; goes with tls_key.")
    )
    tls_key: Path | None = field(default=None, metadata=setting("Private key (PEM) of tls_cert."))
    plaintext: bool = field(
        default=False,
        metadata=setting(
            "Serve without TLS at an address that other machines can reach. Secrets and images then cross "
            "the network as they are: say so only where the network itself is trusted."
        ),
    )

    @property
    def tls(self) -> bool:
        """Whether clients are served by TLS."""
        return self.tls_cert is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings(Listener):
    """HTTP: the bytes of apps, by signed URLs. Other zones fetch them here: give an address they reach."""

    listen: Address = field(
        default=Address("127.0.0.1", 7633), metadata=setting("Address to listen at; port 0: any free one.")
    )
    url: str = field(
        default="",
        metadata=setting(
            "URL at which clients and other zones reach this listener, where it differs from the address it "
            "listens at (a proxy in front, another name). Of https, all zones' systems must trust the certificate.",
            shown_default="from listen",
        ),
    )

    metrics: bool = field(
        default=True,
        metadata=setting("Answer /metrics, to whoever reaches the listener: numbers about this agent, no secrets."),
    )

    def public_url(self, port: int) -> str:
        """Return the URL to tell others, without a slash at its end, given the port that was bound."""
        if self.url:
            return self.url.rstrip("/")
        return f"{'https' if self.tls else 'http'}://{self.listen.with_port(port).dialable()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcSettings(Listener):
    """gRPC for clients: the `fedmarket` command and programs."""

    listen: Address = field(
        default=Address("127.0.0.1", 7634), metadata=setting("Address to listen at; port 0: any free one.")
    )
    advertise: Address | None = field(
        default=None,
        metadata=setting(
            "Address (host:port) that other zones name to their users as this zone's, where it differs from listen.",
            shown_default="from listen",
        ),
    )

    def public_address(self, port: int) -> Address:
        """Return the address to tell others, given the port that was bound."""
        return self.advertise or self.listen.with_port(port).dialable()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """gRPC for the other zones: always by mutual TLS, with certificates that the agent makes from the zone's key."""

    listen: Address = field(
        default=Address("0.0.0.0", 7635),  # noqa: S104 - only pinned zones are let in
        metadata=setting("Address to listen at; port 0: any free one."),
    )
    advertise: Address | None = field(
        default=None,
        metadata=setting(
            "Address (host:port) at which the other zones reach this one, where it differs from listen.",
            shown_default="from listen",
        ),
    )

    def public_address(self, port: int) -> Address:
        """Return the address to tell others, given the port that was bound."""
        return self.advertise or self.listen.with_port(port).dialable()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """Who may use this zone."""

    credentials: Path = field(
        default=Path("credentials"),
        metadata=setting("File that holds `user:secret` of the zone's administrator, readable by its owner only."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DatastoreSettings:
    """A named place for images; one table each. Without any there is one named `default` at datastores/default."""

    name: str = field(metadata=setting("Name of the datastore, unique in the zone."))
    driver: str = field(
        default="fs", metadata=setting("How images are kept; fs: files in a directory of this host.", choices=("fs",))
    )
    path: Path = field(metadata=setting("Directory of an fs datastore. It is made if it is not there."))


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerZone:
    """Another zone that this one follows; one table each, as `fedmarket agent init` printed it there."""

    id: int = field(metadata=setting("Number of the other zone.", low=0, high=MAX_ZONE))
    address: Address = field(metadata=setting("Address (host:port) of its peer listener."))
    key: str = field(
        metadata=setting(
            "Its public key, `ed25519:` and base64 (its keys/zone.pub): only who holds that key is the zone."
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepSettings:
    """What is kept for how long. One agent of the zone sees to it, every `upkeep_seconds` of [timeouts]."""

    lost_days: int = field(
        default=30,
        metadata=setting(
            "Records that vanished from the copy of a peer can be looked at for so many days (`fedmarket federation "
            "lost`).",
            low=1,
            high=3650,
        ),
    )
    requests_days: int = field(
        default=7,
        metadata=setting(
            "What became of a change that another zone asked for is remembered for so many days: so long it can be "
            "asked for again without being made twice.",
            low=1,
            high=3650,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What the agent says on stderr. Traces and metrics are told by OTEL_* variables: docs/telemetry.md."""

    level: str = field(
        default="info", metadata=setting("How much to say.", choices=("debug", "info", "warning", "error"))
    )
    format: str = field(
        default="text",
        metadata=setting(
            "json: one object per line, with trace ids, for what collects logs.", choices=("text", "json")
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """Jobs: creates, exports, downloads to the agent and other long operations."""

    downloads: Path = field(
        default=Path("downloads"),
        metadata=setting("Directory of what `fedmarket app download --to-agent` writes; made if it is not there."),
    )
    keep_days: float = field(
        default=30.0, metadata=setting("Ended jobs are listed for so many days.", low=0, high=3650)
    )
    keep: int = field(default=1000, metadata=setting("No more ended jobs are listed than that.", low=0, high=100_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait for what, in seconds. The defaults suit zones up to a second of round trip apart."""

    etcd_call_seconds: float = field(default=5.0, metadata=seconds("One call to etcd."))
    etcd_start_seconds: float = field(
        default=30.0,
        metadata=seconds("etcd's start, or the first answer of one that runs elsewhere; then the agent gives up."),
    )
    peer_call_seconds: float = field(
        default=5.0, metadata=seconds("One call to another zone, for instance where bytes are.")
    )
    connect_seconds: float = field(default=5.0, metadata=seconds("Making a connection to another zone, TLS included."))
    peer_look_seconds: float = field(
        default=2.0,
        metadata=seconds(
            "An agent that starts waits so long for the other zones to show what they hold of this one, which may "
            "prove that its etcd was put back; then it takes changes."
        ),
    )
    beat_seconds: float = field(
        default=2.0, metadata=seconds("Between signs of life on an idle link; every zone should use the same.")
    )
    beats_missed: int = field(
        default=3,
        metadata=setting("A link that is silent for this many beats is down and dialled again.", low=2, high=100),
    )
    idle_commit_seconds: float = field(
        default=5.0,
        metadata=setting(
            "An idle zone signs its head anew this often. Zones that share one etcd know each other by two such heads "
            "within 15 seconds, hence the upper bound.",
            low=0.1,
            high=7.0,
        ),
    )
    transfer_idle_seconds: float = field(
        default=30.0,
        metadata=seconds("A transfer from which no byte came for so long is broken off. There is no limit in all."),
    )
    url_lifetime_seconds: int = field(
        default=3600,
        metadata=setting("A signed URL can be used to begin a read for so long.", low=10, high=7 * 86400),
    )
    shutdown_seconds: float = field(
        default=10.0,
        metadata=seconds("What runs when the agent is told to stop has so long to end; then it is cut off."),
    )
    forward_seconds: float = field(
        default=15.0,
        metadata=seconds(
            "A change of another zone's record is asked for anew, under one request id, until its home has answered, "
            "for so long; then what became of it is told to be unknown."
        ),
    )
    visible_seconds: float = field(
        default=10.0,
        metadata=seconds(
            "A change that was made waits so long to be seen by the agent's own readers before it is answered."
        ),
    )
    scrub_seconds: float = field(
        default=3600.0,
        metadata=seconds("Between two looks, on average, whether all that is stored still is what its heads say."),
    )
    monitor_seconds: float = field(
        default=600.0, metadata=seconds("Between two measurements, on average, of the space of each market.")
    )
    measure_seconds: float = field(
        default=10.0, metadata=seconds("Measuring one market's space, whose file system may hang.")
    )
    upkeep_seconds: float = field(
        default=3600.0,
        metadata=seconds("Between two looks, on average, at what is to be cleared, compacted or renewed."),
    )
    convert_seconds: float = field(default=3600.0, metadata=seconds("Converting one image with qemu-img."))
    backoff_first_seconds: float = field(
        default=0.1, metadata=seconds("Before the first new try of what failed; then longer, with jitter.")
    )
    backoff_max_seconds: float = field(default=5.0, metadata=seconds("The longest wait between tries."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One zone's settings, checked: whoever holds one need not check again."""

    file: Path
    """The zone.toml, absolute. Relative paths in it were taken relative to its directory."""
    zone: ZoneSettings
    etcd: EtcdSettings = field(default_factory=EtcdSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    grpc: GrpcSettings = field(default_factory=GrpcSettings)
    peer: PeerSettings = field(default_factory=PeerSettings)
    auth: AuthSettings
    datastores: tuple[DatastoreSettings, ...]
    peers: tuple[PeerZone, ...] = ()
    upkeep: UpkeepSettings = field(default_factory=UpkeepSettings)
    log: LogSettings = field(default_factory=LogSettings)
    jobs: JobSettings
    timeouts: Timeouts = field(default_factory=Timeouts)

    @property
    def backoff(self) -> Backoff:
        """How long what fails waits before it is tried again."""
        t = self.timeouts
        return Backoff(first_seconds=t.backoff_first_seconds, longest_seconds=t.backoff_max_seconds)

    @property
    def layout(self) -> Layout:
        """Where the zone's own files lie: in the directory of zone.toml."""
        return Layout(self.file.parent)


TABLES: dict[str, type] = {
    "zone": ZoneSettings,
    "etcd": EtcdSettings,
    "http": HttpSettings,
    "grpc": GrpcSettings,
    "peer": PeerSettings,
    "auth": AuthSettings,
    "upkeep": UpkeepSettings,
    "log": LogSettings,
    "jobs": JobSettings,
    "timeouts": Timeouts,
}
"""The tables of zone.toml, in the order in which they are shown. Each is also the name of its field in Config."""

ARRAYS: dict[str, type] = {"datastore": DatastoreSettings, "peers": PeerZone}
"""The arrays of tables, after the tables."""
