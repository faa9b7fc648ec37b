"""A zone of the demo: made, configured and started as an operator would."""

import os
import shutil
import socket
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from demo.command import BIN, Command
from demo.errors import DemoError
from demo.narrator import Narrator

NAMES = ("berlin", "tokyo")
LOG_LINES = 10
"""How much of an agent's log is shown when it has ended unasked."""


@dataclass(frozen=True)
class Ports:
    """Where an agent listens on 127.0.0.1: for clients over HTTP and gRPC, and for peers."""

    http: int
    grpc: int
    peer: int


class Zone(Command):
    """One zone in its own directory, with one agent; its users' commands are the methods of `Command`."""

    def __init__(self, zone_id: int, directory: Path, ports: Ports, tell: Narrator) -> None:
        self.id = zone_id
        self.directory = directory
        self.ports = ports
        self._agent: subprocess.Popen[bytes] | None = None
        super().__init__(directory.name, _variables(directory, ports), tell)

    @property
    def log(self) -> Path:
        """Where the agent's output goes."""
        return self.directory.with_suffix(".log")

    @property
    def config(self) -> Path:
        """The agent's settings."""
        return self.directory / "zone.toml"

    def make(self) -> None:
        """Make the zone's directory: settings, keys, credentials. Its agent will listen on this machine only."""
        ports = {"http": self.ports.http, "grpc": self.ports.grpc, "peer": self.ports.peer}
        listen = [word for name, port in ports.items() for word in (f"--{name}", f"127.0.0.1:{port}")]
        self.run("agent", "init", "--zone-id", str(self.id), "--zone-name", self.name, *listen, str(self.directory))

    def trust(self, other: "Zone") -> None:
        """List another zone as a peer: its id, where it is, and the one key that may speak for it."""
        key = (other.directory / "keys" / "zone.pub").read_text().strip()
        with self.config.open("a") as settings:
            settings.write(f'''
[[peers]]
id = {other.id}
address = "127.0.0.1:{other.ports.peer}"
key = "{key}"
''')

    def start(self, *, keep: bool) -> None:
        """Start the agent in a session of its own; it outlives the demo only when `keep` says so."""
        words = ["agent", "run", "--config", str(self.config)]
        self.tell.command(self.name, "fedmarket", *words)
        bound = [] if keep else ["setpriv", "--pdeathsig", "TERM"]
        with self.log.open("wb") as log:
            self._agent = subprocess.Popen(
                [*bound, BIN / "fedmarket", *words],
                env=os.environ | {"PATH": f"{os.environ['PATH']}:{BIN}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def follows(self, other: "Zone") -> bool:
        """Return whether this zone follows the other's catalog commit by commit.

        Raises DemoError when the agent has ended.
        """
        if self._agent is not None and self._agent.poll() is not None:
            raise DemoError(f"The agent of {self.name} has ended unasked; {self.log} closes with:\n{tail(self.log)}")
        links = self.try_ask("federation", "status") or []
        return any(link["zone_id"] == other.id and link["state"] == "tail" for link in links)


def _variables(directory: Path, ports: Ports) -> dict[str, str]:
    """Return what a user of the zone has in the environment."""
    return {
        "FEDMARKET_ENDPOINT": f"127.0.0.1:{ports.grpc}",
        "FEDMARKET_CREDENTIALS": str(directory / "credentials"),
        "ONE_XMLRPC": f"http://127.0.0.1:{ports.http}/RPC2",
        "ONE_GRPC": f"127.0.0.1:{ports.grpc}",
        "ONE_AUTH": str(directory / "credentials"),
    }


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody uses now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])


def forget(directory: Path) -> None:
    """Remove the zones of an earlier demo, and what the story wrote beside them."""
    for name in NAMES:
        shutil.rmtree(directory / name, ignore_errors=True)
        for suffix in (".log", ".env"):
            (directory / name).with_suffix(suffix).unlink(missing_ok=True)
    for file in directory.glob("*.img"):
        file.unlink()
