"""etcd as a child of the agent: one member on loopback, with its data in the agent's directory."""

import asyncio
import json
import logging
import os
import secrets
import shutil
import socket
from asyncio.subprocess import DEVNULL, STDOUT, Process
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from federation.etcd.client import Settings, dial
from federation.etcd.leftover import PidFile, end_leftover
from fedmarket.errors import ConfigError, Unavailable
from fedmarket.pb.etcd import rpc_pb2 as rpc

log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_PORT_ATTEMPTS = 5
_LOG_TAIL_BYTES = 64 * 1024
_CLUSTER = "cluster-token"
_ENDPOINT = "endpoint"
_PEER_URL = "unix://peer:0"
"""Where a second member would find this one: a socket in its working directory, since there never is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSettings:
    """How the child runs."""

    binary: str = "etcd"
    """Name on PATH, or path."""
    client_port: int = 0
    """Port on loopback; 0: any free one."""
    quota_bytes: int = 2 * 2**30
    """Size of the database over which etcd takes no more puts (its NOSPACE alarm)."""
    compaction_seconds: int = 3600
    """How long history is kept: how long a watch may be interrupted before everything is listed again."""
    start_seconds: float = 30.0
    """Time to start; reading a large database after a crash takes some."""
    stop_seconds: float = 10.0
    """Time to stop when asked, before it is killed."""


DEFAULT_CHILD_SETTINGS = ChildSettings()


class _PortTakenError(Exception):
    """Someone else listens on the port."""


class EmbeddedEtcd:
    """An etcd that lives as long as this object's context, and never longer than this process.

    The kernel kills it when the thread that started it ends, for whatever reason: start it from the thread of an
    event loop that lasts. `directory` holds `data/` (etcd's own), `etcd.log` and `etcd.log.1` (this run and the one
    before), `etcd.pid`, `endpoint` while it runs, and `cluster-token`.
    """

    def __init__(self, directory: Path, settings: ChildSettings = DEFAULT_CHILD_SETTINGS) -> None:
        self._directory = directory.absolute()
        self._settings = settings
        self._pid_file = PidFile(self._directory / "etcd.pid")
        self._process: Process | None = None
        self._port = settings.client_port

    @property
    def endpoint(self) -> str:
        """Where it serves clients, "127.0.0.1:port"; it keeps its port, so that clients find it again."""
        return f"{_LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running().pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start it and return when it answers; also after it has exited by itself, then on the same port.

        Raises ConfigError if there is no such binary, its port is taken or another agent has the directory, and
        Unavailable, with what its log says, if it does not come up. What ran before counts as exited until then.
        """
        if self._process is not None:
            return await self._launch_on_own_port()
        await asyncio.to_thread(self._claim)
        try:
            await self._end_leftover()
            if self._port:
                await self._launch_on_own_port()
            else:
                await self._launch_on_free_port()
        except BaseException:
            self._port = self._settings.client_port
            self._pid_file.release()
            raise

    async def wait(self) -> int:
        """Wait until it exits, and return its exit status (minus the number of the signal that killed it)."""
        return await self._running().wait()

    async def stop(self) -> None:
        """Stop it: by SIGTERM and, if that is not enough, by SIGKILL."""
        if self._process is not None:
            await _end(self._process, self._settings.stop_seconds)
            self._process = None
            await asyncio.to_thread((self._directory / _ENDPOINT).unlink, missing_ok=True)
        self._pid_file.release()

    def _running(self) -> Process:
        if self._process is None:
            raise Unavailable(f"the etcd in {self._directory} has not been started: start the agent")
        return self._process

    def _claim(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._pid_file.lock()
        except OSError as error:
            raise ConfigError(
                f"the etcd directory {self._directory} cannot be used ({error.strerror}): "
                "check who owns it, or choose another"
            ) from error

    async def _end_leftover(self) -> None:
        pid = await asyncio.to_thread(self._pid_file.read)
        if pid is not None and await end_leftover(pid, self._data_argument, self._settings.stop_seconds):
            log.warning("ended the etcd with process id %d that an earlier agent left in %s", pid, self._directory)

    async def _launch_on_own_port(self) -> None:
        try:
            await self._launch()
        except _PortTakenError as error:
            raise ConfigError(
                f"port {self._port} of {_LOOPBACK} is taken, so etcd cannot listen there: "
                "stop who uses it, or set another port for the embedded etcd"
            ) from error

    async def _launch_on_free_port(self) -> None:
        for _ in range(_PORT_ATTEMPTS):
            self._port = _free_port()
            with suppress(_PortTakenError):
                return await self._launch()
        raise Unavailable(f"no free port for etcd was found on {_LOOPBACK} in {_PORT_ATTEMPTS} tries: start again")

    async def _launch(self) -> None:
        token = await asyncio.to_thread(self._prepare)
        name = _member_name(token)
        process = await self._spawn(name, token)
        try:
            await asyncio.to_thread(self._pid_file.write, process.pid)
            await self._wait_until_ready(process, name)
            await asyncio.to_thread((self._directory / _ENDPOINT).write_text, self.endpoint)
        except BaseException:
            await _end(process, 0)
            raise
        self._process = process
        log.info("etcd runs at %s with process id %d in %s", self.endpoint, process.pid, self._directory)

    def _prepare(self) -> str:
        """Set the last run's log aside; return the cluster's token, made once."""
        current = self._directory / "etcd.log"
        if current.exists():
            current.replace(self._directory / "etcd.log.1")
        path = self._directory / _CLUSTER
        if not path.exists():
            path.write_text(secrets.token_hex(16))
        return path.read_text()

    async def _spawn(self, name: str, token: str) -> Process:
        command = [_find("setpriv", "install util-linux"), "--pdeathsig", "KILL", "--"]
        command += [_find(self._settings.binary, "install Debian's etcd-server or set [etcd] binary")]
        command += self._arguments(name, token)
        # Variables like ETCD_NAME are settings to etcd, and it refuses to start where they contradict its flags.
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ETCD_")}
        output = await asyncio.to_thread((self._directory / "etcd.log").open, "ab")
        with output:
            return await asyncio.create_subprocess_exec(
                *command,
                cwd=self._directory,
                env=kept,
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C is for the agent, which then stops etcd last
            )

    @property
    def _data_argument(self) -> str:
        return f"--data-dir={self._directory / 'data'}"

    def _arguments(self, name: str, token: str) -> list[str]:
        url = f"http://{self.endpoint}"
        return [
            f"--name={name}",
            self._data_argument,
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={_PEER_URL}",
            f"--initial-advertise-peer-urls={_PEER_URL}",
            f"--initial-cluster={name}={_PEER_URL}",
            f"--initial-cluster-token={token}",
            "--auto-compaction-mode=periodic",
            f"--auto-compaction-retention={self._settings.compaction_seconds}s",
            f"--quota-backend-bytes={self._settings.quota_bytes}",
            "--logger=zap",
            "--log-outputs=stderr",
        ]

    async def _wait_until_ready(self, process: Process, name: str) -> None:
        exiting = asyncio.ensure_future(process.wait())
        answering = asyncio.ensure_future(self._answering_member())
        seconds = self._settings.start_seconds
        try:
            await asyncio.wait({exiting, answering}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if exiting.done():
                raise await self._exited(exiting.result())
            if not answering.done():
                raise await self._not_started(f"does not answer after {seconds:g} s")
            if answering.result() != name:
                raise _PortTakenError
        finally:
            exiting.cancel()
            answering.cancel()
            await asyncio.gather(exiting, answering, return_exceptions=True)

    async def _answering_member(self) -> str:
        """Return the name of the member that serves our port, once it serves reads."""
        async with dial([self.endpoint], Settings(call_seconds=self._settings.start_seconds)) as client:
            await client.call(client.kv.Range, rpc.RangeRequest(key=b"\0"), doing="read")
            response = await client.call(client.cluster.MemberList, rpc.MemberListRequest(), doing="list its members")
            return response.members[0].name

    async def _exited(self, status: int) -> Exception:
        reason = await asyncio.to_thread(_last_error, self._directory / "etcd.log")
        if "address already in use" in reason:
            return _PortTakenError()
        return await self._not_started(f"exited with status {status}")

    async def _not_started(self, what: str) -> Unavailable:
        path = self._directory / "etcd.log"
        reason = await asyncio.to_thread(_last_error, path)
        return Unavailable(f"the embedded etcd {what} ({reason or 'it says nothing'}): see {path}")


def find_child(directory: Path) -> tuple[str, str] | None:
    """Return the endpoint of the etcd that runs in a directory, and the name of its member. Blocking.

    None: none runs. If it was killed, another program may be at that endpoint by now: the name tells.
    """
    try:
        endpoint, token = (directory / _ENDPOINT).read_text(), (directory / _CLUSTER).read_text()
    except FileNotFoundError:
        return None
    return endpoint, _member_name(token)


def _member_name(token: str) -> str:
    return f"fedmarket-{token[:12]}"


async def _end(process: Process, grace_seconds: float) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(grace_seconds):
                await process.wait()
        except TimeoutError:
            process.kill()
    await process.wait()


def _find(binary: str, advice: str) -> str:
    found = shutil.which(binary)
    if found is None:
        raise ConfigError(f"there is no program {binary!r} on this machine: {advice}")
    return str(Path(found).absolute())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _last_error(path: Path) -> str:
    """Return the last error in etcd's log or, if there is none, its last line."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("level") in ("error", "fatal", "panic", "dpanic"):
            return ": ".join(entry[part] for part in ("msg", "error") if part in entry)
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
