"""Between raw and qcow2, by `qemu-img convert` as a child process."""

import errno
import os
import re
import select
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drivers.datastore.formats import Format
from drivers.faults import told
from drivers.space import require_space
from fedmarket.errors import Cancelled, NoSpace, Refused, Timeout
from fedmarket.telemetry import traced
from fedmarket.units import human_duration


@dataclass(frozen=True, slots=True)
class ConvertSettings:
    """How qemu-img is run."""

    program: str = "qemu-img"
    timeout: float = 6 * 3600
    """Seconds; a conversion that takes longer is ended. Large disks on slow storage take hours."""
    cancel_interval: float = 0.2
    """Seconds; the longest that a cancel waits to be noticed."""


_PROGRESS = re.compile(rb"\s*\((\d+\.\d+)/100%\)")
_REQUIRED = re.compile(r"required size: (\d+)")


@traced("driver convert")
def convert(
    source: Path,
    source_format: Format,
    target: Path,
    target_format: Format,
    *,
    progress: Callable[[float], None],
    cancelled: Callable[[], bool],
    settings: ConvertSettings,
) -> None:
    """Write `source` in another format to `target`, the path of a staging. Blocks, for a worker thread.

    Both formats are given to qemu-img, which never probes: the caller has read the source's header (see `detect`).
    `progress` gets a fraction from 0 to 1. Raises Cancelled, Timeout, NoSpace; Refused if qemu-img is missing or fails.
    No child is left when this returns.
    """
    run = _QemuImg(settings, time.monotonic() + settings.timeout, progress, cancelled)
    formats = ["-f", source_format, "-O", target_format]
    required = _REQUIRED.search(run("measure", *formats, "--", str(source)))
    with told(target.parent):
        require_space(target.parent, int(required[1]) if required else 0)
    run("convert", "-p", *formats, "--", str(source), str(target))


@dataclass(frozen=True, slots=True)
class _QemuImg:
    settings: ConvertSettings
    deadline: float
    progress: Callable[[float], None]
    cancelled: Callable[[], bool]

    def __call__(self, *arguments: str) -> str:
        """Run one subcommand and return what it printed, without progress."""
        program = self.settings.program
        try:
            child = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError as error:
            raise Refused(
                f"{program}, which converts images, cannot be run on this host ({error.strerror}): install qemu-utils"
            ) from error
        with child:
            try:
                said = self._follow(child)
            except BaseException:
                child.kill()
                raise
        if child.returncode == 0:
            return said
        if os.strerror(errno.ENOSPC) in said:
            raise NoSpace(f"{arguments[-1]} took the last free space: free some there or choose another datastore")
        raise Refused(
            f"{program} {arguments[0]} failed with status {child.returncode}: {' '.join(said.split())}; "
            "check the image with 'qemu-img check'"
        )

    def _follow(self, child: subprocess.Popen[bytes]) -> str:
        """Report progress until the child closes its output; return what else it printed."""
        assert child.stdout is not None  # noqa: S101 - asked for above; narrows the type
        output = child.stdout.fileno()
        poller = select.poll()
        poller.register(output, select.POLLIN)
        said = b""
        while True:
            if self.cancelled():
                raise Cancelled("the conversion was cancelled: start it again if it is still wanted")
            if time.monotonic() > self.deadline:
                raise Timeout(
                    f"the conversion took longer than {human_duration(self.settings.timeout)} and was ended: "
                    "raise its timeout, or convert the image on a faster disk"
                )
            if not poller.poll(self.settings.cancel_interval * 1000):
                continue
            chunk = os.read(output, 4096)
            if not chunk:
                return said.decode(errors="replace")
            said += chunk
            if steps := _PROGRESS.findall(said):
                self.progress(float(steps[-1]) / 100)
                said = _PROGRESS.sub(b"", said)
