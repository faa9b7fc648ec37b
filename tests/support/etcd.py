"""A real etcd for tests, which they may also kill, freeze and start again."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

_START_SECONDS = 30.0
_READY = "serving client traffic"  # what etcd 3.4 and later log when they do
_PEER_URL = "unix://peer:0"  # a socket in the working directory


VERSIONS = ("3.4", "3.5")
"""Of etcd, that the client must get along with."""


@cache
def etcd_binary(version: str = "") -> str:
    """Return the path of etcd: the machine's own or that which deploy/need brought; of `version`, if one is given."""
    names = [f"etcd{version.replace('.', '')}", "etcd"] if version else ["etcd"]
    places = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent), "/usr/bin"])
    for binary in filter(None, (shutil.which(name, path=places) for name in names)):
        told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
        if told.startswith(f"etcd Version: {version}"):
            return binary
    raise RuntimeError(f"These tests need a real etcd {version} and there is none: run deploy/need {names[0]}")


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class EtcdServer:
    """One etcd with its data in `directory`. Keeps its address over restarts; ends with the thread that starts it."""

    def __init__(self, directory: Path, *flags: str, scheme: str = "http", version: str = "") -> None:
        self.directory = directory
        self.host = "127.0.0.1"
        self.port = free_port()
        self._binary = etcd_binary(version)
        self._flags = flags
        self._scheme = scheme
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def data(self) -> Path:
        """What it stores: to be copied and put back while it does not run."""
        return self.directory / "data"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self._spawn()
        self._wait_until_ready()

    async def restart(self) -> None:
        """Start it again from a test that runs on an event loop."""
        self._spawn()
        await asyncio.to_thread(self._wait_until_ready)

    def kill(self) -> None:
        """End it without a chance to say goodbye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers. Returns when every thread has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + _START_SECONDS
        while not all(_state(task) == "T" for task in Path(f"/proc/{self.pid}/task").iterdir()):
            assert time.monotonic() < deadline, "etcd does not stop"
            time.sleep(0.001)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self.kill()

    def _spawn(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        url = f"{self._scheme}://{self.endpoint}"
        command = ["setpriv", "--pdeathsig", "KILL", "--", self._binary, "--name=test", "--data-dir=data"]
        command += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
        command += [f"--listen-peer-urls={_PEER_URL}", f"--initial-advertise-peer-urls={_PEER_URL}"]
        command += [f"--initial-cluster=test={_PEER_URL}", f"--initial-cluster-token={self.directory}"]
        command += ["--logger=zap", "--log-outputs=stderr", *self._flags]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ETCD_")}
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=self.directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while _READY not in (text := self._log.read_text()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"etcd did not start:\n{text}")
            time.sleep(0.02)

    @property
    def _log(self) -> Path:
        return self.directory / "etcd.log"


EtcdFactory = Callable[..., EtcdServer]
"""Called with etcd's flags and, as `version`, one of VERSIONS, gives a started server that belongs to one test."""


def _state(task: Path) -> str:
    """Return the state of a thread, as in proc(5): the field behind its name in parentheses."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]
