"""Booting an image, to see that it is whole in the way that counts."""

import re
import selectors
import shutil
import subprocess
import time
from pathlib import Path
from typing import IO

from demo.errors import StepFailed

QEMU = "qemu-system-x86_64"
TIMEOUT = 30.0
"""Seconds until the image must have shown its text; a second is usual."""
SEEN = 200
"""How much of the console's last text a failure shows."""
_CURSOR = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def possible() -> bool:
    """Return whether this machine has what booting needs."""
    return shutil.which(QEMU) is not None


def command(disk: Path, disk_format: str) -> list[str]:
    """Return a command that boots a disk, its console on the terminal, and leaves its bytes as they are."""
    path = str(disk).replace(",", ",,")  # QEMU's way to write a comma
    options = "-accel tcg -m 128 -nic none -nographic -no-reboot -snapshot"
    return [QEMU, *options.split(), "-drive", f"file={path},format={disk_format},if=ide"]


def boot(disk: Path, disk_format: str, text: str) -> float:
    """Boot a disk until its console shows `text`; return the seconds that took. Raises StepFailed."""
    begin = time.monotonic()
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command(disk, disk_format)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    ) as machine:
        try:
            assert machine.stdout is not None  # noqa: S101
            seen = _read_until(machine.stdout, text.encode(), begin + TIMEOUT)
        finally:
            machine.kill()
    if text.encode() not in plain(seen):
        raise StepFailed(f"{text!r} on the console of {disk}", repr(seen[-SEEN:]))
    return time.monotonic() - begin


def plain(console: bytes) -> bytes:
    """Return what stands on a console, without the moves of its cursor: a slow machine has them within a text."""
    return _CURSOR.sub(b"", console)


def _read_until(console: IO[bytes], text: bytes, deadline: float) -> bytes:
    seen = b""
    with selectors.DefaultSelector() as ready:
        ready.register(console, selectors.EVENT_READ)
        while text not in plain(seen) and ready.select(max(0.0, deadline - time.monotonic())):
            more = console.read(65536)
            if not more:
                break
            seen += more
    return seen
