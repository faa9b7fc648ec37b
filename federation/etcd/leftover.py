"""One etcd to a directory: the file that says which, and the end of one that an earlier agent left behind."""

import asyncio
import fcntl
import os
import signal
from contextlib import suppress
from pathlib import Path

from fedmarket.errors import ConfigError


class PidFile:
    """Holds the process id of a directory's etcd; locked by the agent that runs it, for as long as that lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def lock(self) -> None:
        """Claim the directory. Raises ConfigError if another agent that lives has it."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise ConfigError(
                f"the etcd in {self._path.parent} belongs to another agent that is running: stop that agent first"
            ) from None
        self._fd = fd

    def read(self) -> int | None:
        """Return the process id that was written last, perhaps by an earlier agent."""
        text = os.pread(self._fd, 32, 0).strip()
        return int(text) if text.isdigit() else None

    def write(self, pid: int) -> None:
        """Note the process id."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{pid}\n".encode(), 0)

    def release(self) -> None:
        """Let go of the directory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def end_leftover(pid: int, argument: str, grace_seconds: float) -> bool:
    """End the process `pid` if `argument` is in its command line; return whether it was.

    By a file descriptor of the process, so that no other can be hit that gets the same id.
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if argument not in _command_line(pid):
            return False
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, number)
            if await _has_ended(fd, grace_seconds):
                break
        return True
    finally:
        os.close(fd)


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        return []


async def _has_ended(pidfd: int, seconds: float) -> bool:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(seconds):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True
