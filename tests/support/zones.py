"""Whole zones as real processes: an agent by `fedmarket agent run` with its embedded etcd, and its users' commands."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedmarket.pb.etcd import kv_pb2, rpc_pb2, rpc_pb2_grpc
from fedmarket.pb.fedmarket.v1.zone_pb2 import LINK_STATE_TAIL, FederationStatusResponse, Link
from tests.support.native import OPTIONS, Native
from zone_agent.address import Address
from zone_agent.init import NewZone, make_zone

FEDMARKET = str(Path(sys.executable).parent / "fedmarket")
BOUND = 30.0
"""Seconds within which anything that is waited for must happen, on the slowest machine that runs the tests."""
POLL = 0.02
PORTS = range(15_000, 32_000)
"""Below those that the kernel gives to outgoing connections, which could take one before its server does."""

T = TypeVar("T")


def until(condition: Callable[[], T | None], what: str, seconds: float = BOUND) -> T:
    """Return what `condition` returns once that is true; AssertionError if it does not become so within the bound."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"within {seconds:g} s this did not happen: {what}"
        time.sleep(POLL)
    return value


def free_port() -> int:
    """Return a port of loopback that nobody uses."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: bytes
    err: str

    @property
    def sentence(self) -> str:
        """The one line that it left on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("fedmarket: "), self.err
        return lines[0].removeprefix("fedmarket: ")


def run(*arguments: str | Path, variables: Mapping[str, str] = {}, seconds: float = BOUND) -> Done:
    """Run `fedmarket` in an environment that names no agent unless `variables` do."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FEDMARKET_")}
    ended = subprocess.run(
        [FEDMARKET, *map(str, arguments)],
        env=kept | dict(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    return Done(ended.returncode, ended.stdout, ended.stderr.decode())


class Zone:
    """One zone with one agent, whose ports stay the same over restarts."""

    def __init__(self, directory: Path, zone_id: int, name: str) -> None:
        self.directory = directory / name
        self.id = zone_id
        self.name = name
        self.http, self.grpc, self.peer, self.etcd_port = (free_port() for _ in range(4))
        listen = [Address("127.0.0.1", port) for port in (self.http, self.grpc, self.peer)]
        made = make_zone(self.directory, NewZone(id=zone_id, name=name, http=listen[0], grpc=listen[1], peer=listen[2]))
        self.key = made.key
        self.set("etcd", client_port=self.etcd_port)
        self.program: Sequence[str] = [FEDMARKET]
        """What is run as the agent."""
        self._agent: subprocess.Popen[bytes] | None = None
        self._native: Native | None = None

    # -- settings

    @property
    def config(self) -> Path:
        return self.directory / "zone.toml"

    @property
    def credentials(self) -> Path:
        return self.directory / "credentials"

    @property
    def log(self) -> Path:
        return self.directory.with_suffix(".log")

    def set(self, table: str, **values: object) -> None:
        """Change settings where `agent init` wrote them, perhaps as comments."""
        lines = self.config.read_text().splitlines()
        begin = lines.index(f"[{table}]")
        for key, value in values.items():
            at = next(i for i in range(begin, len(lines)) if lines[i].removeprefix("# ").startswith(f"{key} = "))
            lines[at] = f"{key} = {json.dumps(value)}"
        self.config.write_text("\n".join(lines) + "\n")

    def follow(self, zone_id: int, port: int, key: str) -> None:
        """Pin another zone, dialled at a port of loopback."""
        with self.config.open("a") as settings:
            settings.write(f'\n[[peers]]\nid = {zone_id}\naddress = "127.0.0.1:{port}"\nkey = "{key}"\n')

    # -- the agent

    @property
    def agent(self) -> "subprocess.Popen[bytes]":
        assert self._agent is not None
        return self._agent

    @property
    def etcd_pid(self) -> int:
        """Return what its agent wrote; 0 in the moment in which that is being written anew."""
        return int((self.directory / "etcd" / "etcd.pid").read_text() or 0)

    def start(self) -> None:
        """Start the agent and wait until its health check says that it serves."""
        self.spawn()
        self.wait_serving()

    def wait_serving(self) -> None:
        """Wait until the agent's health check says that it serves."""
        until(self._serves, f"the agent of {self.name} serves; see {self.log}")

    def spawn(self) -> None:
        """Start the agent, in a process group of its own; the kernel kills it when this process ends."""
        self._close_native()
        with self.log.open("ab") as log:
            self._agent = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *self.program, "agent", "run", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        self.agent.send_signal(number)

    def kill(self) -> None:
        """End the agent without a chance to say goodbye, and wait until its etcd has gone with it."""
        etcd = self.etcd_pid
        self.agent.kill()
        self.agent.wait()
        until(lambda: not runs(etcd), f"the etcd of {self.name} ends with its agent")

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the agent to stop, and return its exit status."""
        self.send(number)
        return self.agent.wait(BOUND)

    def close(self) -> None:
        """End the agent if it runs, and remove what takes room; its log stays."""
        self._close_native()
        if self._agent is not None and self._agent.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._agent.pid, signal.SIGKILL)
            self._agent.wait()
        for bulky in ("datastores", "markets", "etcd"):
            shutil.rmtree(self.directory / bulky, ignore_errors=True)

    def _serves(self) -> bool:
        assert self.agent.poll() is None, f"the agent of {self.name} has ended:\n{self.log.read_text()[-3000:]}"
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc}", [("grpc.enable_http_proxy", 0)]) as channel:
            try:
                check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # of no stub
                answer = check(health_pb2.HealthCheckRequest(), timeout=5)
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _close_native(self) -> None:
        if self._native is not None:
            self._native.close()
            self._native = None

    # -- its users

    @property
    def native(self) -> Native:
        """The native API, as the administrator."""
        if self._native is None:
            self._native = Native(f"127.0.0.1:{self.grpc}", self.credentials.read_text().strip())
        return self._native

    @property
    def variables(self) -> dict[str, str]:
        """What a user of the zone has in the environment."""
        return {
            "FEDMARKET_ENDPOINT": f"127.0.0.1:{self.grpc}",
            "FEDMARKET_CREDENTIALS": str(self.credentials),
        }

    def cli(self, *arguments: str | Path, seconds: float = BOUND) -> Done:
        """Run a command as the administrator."""
        return run(*arguments, variables=self.variables, seconds=seconds)

    def ask(self, *arguments: str | Path) -> Any:
        """Run a command that must succeed with nothing on stderr, and return its JSON."""
        done = self.cli(*arguments, "--json")
        assert (done.status, done.err) == (0, ""), done
        return json.loads(done.out)

    def fails(self, status: int, *arguments: str | Path) -> str:
        """Run a command that must fail so, with nothing on stdout, and return its one sentence."""
        done = self.cli(*arguments)
        assert (done.status, done.out) == (status, b""), done
        return done.sentence

    # -- what it keeps

    def stored(self, below: str = "") -> list[kv_pb2.KeyValue]:
        """Return every key of its etcd below a part of the prefix, as of one revision. Raises grpc.RpcError."""
        begin = f"/fedmarket/1/{below}".encode()
        with self.etcd() as channel:
            answer = rpc_pb2_grpc.KVStub(channel).Range(
                rpc_pb2.RangeRequest(key=begin, range_end=begin[:-1] + bytes([begin[-1] + 1])), timeout=BOUND
            )
        return list(answer.kvs)

    def dump(self, below: str = "") -> dict[str, tuple[bytes, int]]:
        """Return the keys of its etcd with value and revision, but for those that change where no record does.

        A head is signed anew, an agent takes up its duties when it comes to them and notes its upkeep, and of jobs and
        requests that came to nothing it is kept that they did.
        """
        own_time = (b"/duty/", b"/upkeep/", b"/job/", b"/request/")
        kept = [kv for kv in self.stored(below) if not kv.key.endswith(b"/head")]
        kept = [kv for kv in kept if not any(part in kv.key for part in own_time)]
        return {kv.key.decode(): (kv.value, kv.mod_revision) for kv in kept}

    def etcd(self) -> grpc.Channel:
        """Open a connection to its etcd."""
        return grpc.insecure_channel(f"127.0.0.1:{self.etcd_port}", OPTIONS)

    def files(self, *, of: tuple[str, ...] = ("datastores", "markets")) -> list[str]:
        """Return the files that the zone's stores hold, staging too."""
        roots = [self.directory / name for name in of]
        return sorted(str(f.relative_to(self.directory)) for root in roots for f in root.rglob("*") if f.is_file())

    def kept(self) -> tuple[object, ...]:
        """Return all that a call which is refused must leave as it was: records, and the stores' files."""
        return self.dump(), self.files()


class Zones:
    """The zones of a test or a module, none of which outlives it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._zones: list[Zone] = []

    def make(self, zone_id: int, name: str) -> Zone:
        """Make a zone, and do not start it."""
        zone = Zone(self.directory, zone_id, name)
        self._zones.append(zone)
        return zone

    def pair(self) -> "Pair":
        """Make berlin and tokyo, which follow each other, and start them."""
        berlin, tokyo = self.make(0, "berlin"), self.make(100, "tokyo")
        berlin.follow(tokyo.id, tokyo.peer, tokyo.key)
        tokyo.follow(berlin.id, berlin.peer, berlin.key)
        pair = Pair(berlin, tokyo)
        pair.start()
        return pair

    def close(self) -> None:
        for zone in self._zones:
            zone.close()


@contextmanager
def yard(directory: Path) -> Iterator[Zones]:
    """Hold zones in a directory, and end them all."""
    zones = Zones(directory)
    try:
        yield zones
    finally:
        zones.close()


@dataclass(frozen=True)
class Pair:
    """Two zones that follow each other."""

    berlin: Zone
    tokyo: Zone

    def start(self) -> None:
        """Start both agents and wait until each follows the other."""
        for zone in (self.berlin, self.tokyo):
            zone.spawn()
        for zone in (self.berlin, self.tokyo):
            zone.wait_serving()
        self.wait_linked()

    def wait_linked(self) -> None:
        """Wait until each zone follows the other commit by commit."""
        until(lambda: follows(self.berlin) and follows(self.tokyo), "both zones follow each other")

    def wait_equal(self) -> None:
        """Wait until each zone holds of the other exactly what the other has."""
        until(lambda: holds(self.berlin, self.tokyo) and holds(self.tokyo, self.berlin), "both zones hold the same")


def link(zone: Zone) -> Link:
    """Return the link of a zone with one peer."""
    (only,) = zone.native.status().links
    return only


def follows(zone: Zone) -> bool:
    """Say whether a zone follows its one peer and knows its name."""
    seen = link(zone)
    return seen.state == LINK_STATE_TAIL and bool(seen.name)


def holds(zone: Zone, home: Zone) -> bool:
    """Say whether the replica that `zone` has of `home` is what `home` has now."""
    theirs: FederationStatusResponse = home.native.status()
    own = theirs.self.head
    here = next(seen.here for seen in zone.native.status().links if seen.zone_id == home.id)
    return (here.epoch, here.root, here.count) == (own.epoch, own.root, own.count)


def runs(pid: int) -> bool:
    """Say whether a process runs; one that has ended and is not collected yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
