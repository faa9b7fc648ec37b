"""Which process is the agent of a zone.toml: it holds a lock, so that what is written there cannot outlive it."""

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmarket.errors import ConfigError, NotFound


def pid_file(config: Path) -> Path:
    """Return where the agent of a zone.toml notes its process id."""
    return config.parent / "state" / f"{config.stem}.pid"


@contextmanager
def present(config: Path) -> Iterator[None]:
    """Be the agent of a zone.toml while the context lasts. Raises ConfigError if another process is. Blocking."""
    fd = os.open(pid_file(config), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(fd, config)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, config: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"the agent of {config} runs already: stop it first, or let it reload its settings") from None


def agent_of(config: Path) -> int | None:
    """Return the process id of the agent that runs with a zone.toml; None: none does. Blocking."""
    try:
        fd = os.open(pid_file(config), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 32, 0).strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(fd)
    return None


def ask_to_reload(config: Path) -> int:
    """Send SIGHUP to the agent that runs with a zone.toml, and return its process id. Raises NotFound. Blocking."""
    pid = agent_of(config)
    if pid is not None:
        # By a file descriptor of the process, looked at again: no other can be hit that gets the same id.
        process = os.pidfd_open(pid)
        try:
            if agent_of(config) == pid:
                signal.pidfd_send_signal(process, signal.SIGHUP)
                return pid
        finally:
            os.close(process)
    raise NotFound(f"no agent runs with {config} on this machine: start it with `fedmarket agent run`")
