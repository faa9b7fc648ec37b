"""Finding and ending the processes of a demo: agents and their etcds.

They are found by what they run, not by a number in a file: a process is the demo's when its command line is
`... agent run --config DIR/<zone>/zone.toml`, or etcd with a path below DIR. So a stale number never ends a
stranger, and what an earlier demo lost is found too.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from demo.errors import DemoError

POLL = 0.05
STOP_TIMEOUT = 15.0
"""Seconds that an agent has to stop by itself; then it is killed."""
KILL_TIMEOUT = 5.0


@dataclass(frozen=True)
class Process:
    """One process; `started` tells it from a later one of the same number."""

    pid: int
    started: int
    parent: int = field(compare=False)

    @property
    def alive(self) -> bool:
        """Whether it still runs; one that has ended and only waits to be collected does not."""
        now = _read(self.pid)
        return now is not None and now.started == self.started

    @property
    def arguments(self) -> list[str]:
        """Its command line; empty when it has ended."""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        except OSError:
            return []

    @property
    def name(self) -> str:
        """What it runs, for people."""
        words = self.arguments
        return Path(words[0]).name if words else "child"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended, or is not ours, is left alone."""
        if self.alive:
            try:
                os.kill(self.pid, number)
            except (ProcessLookupError, PermissionError):
                return


def _read(pid: int) -> Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, parent, *rest = stat.rpartition(")")[2].split()  # the name before may hold spaces and brackets
    return None if state in "ZX" else Process(pid, int(rest[17]), int(parent))


def _all() -> list[Process]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return [process for process in map(_read, pids) if process is not None]


def agents(directory: Path) -> dict[str, Process]:
    """Return the running agents of the zones below `directory`, by the name of the zone's directory."""
    found = {}
    for process in _all():
        config = _config(process.arguments)
        if config is not None and config.parent.parent == directory.absolute():
            found[config.parent.name] = process
    return found


def _config(arguments: list[str]) -> Path | None:
    for index in range(len(arguments) - 3):
        if arguments[index : index + 3] == ["agent", "run", "--config"]:
            return Path(arguments[index + 3])
    return None


def etcds(directory: Path) -> list[Process]:
    """Return the running etcds whose data is below `directory`."""
    below = f"{directory.absolute()}/"
    return [
        process
        for process in _all()
        if (arguments := process.arguments)
        and any(Path(word).name == "etcd" for word in arguments[:2])
        and any(word.partition("=")[2].startswith(below) or word.startswith(below) for word in arguments[1:])
    ]


def descendants(ancestor: Process) -> list[Process]:
    """Return the running children of a process, and theirs."""
    everyone = _all()
    found: list[Process] = []
    generation = {ancestor.pid}
    while generation:
        children = [process for process in everyone if process.parent in generation]
        found += children
        generation = {process.pid for process in children}
    return found


def stop(directory: Path) -> list[str]:
    """End every agent and etcd of the zones below `directory`; return what was ended, one text each.

    Raises DemoError when something is still running after all.
    """
    named = {}
    for zone, agent in agents(directory).items():
        named[agent] = f"{zone}'s agent (pid {agent.pid})"
        named |= {child: f"{zone}'s {child.name} (pid {child.pid})" for child in descendants(agent)}
    first = {process for process in named if process.parent not in {other.pid for other in named}}
    for orphan in etcds(directory):
        if orphan not in named:
            named[orphan] = f"an etcd that had lost its agent (pid {orphan.pid})"
            first.add(orphan)
    _signal(first, signal.SIGTERM)
    if not wait_until(lambda: not _running(named), STOP_TIMEOUT):
        stubborn = _running(named)
        named |= {process: f"{named[process]}, killed as it did not stop by itself" for process in stubborn}
        _signal(stubborn, signal.SIGKILL)
        wait_until(lambda: not _running(named), KILL_TIMEOUT)
    left = _running(named) or [*agents(directory).values(), *etcds(directory)]
    if left:
        pids = " ".join(str(process.pid) for process in left)
        raise DemoError(f"These processes of the demo are still running; end them by hand: kill -9 {pids}")
    return list(named.values())


def _signal(processes: Iterable[Process], number: signal.Signals) -> None:
    for process in processes:
        process.signal(number)


def _running(processes: Iterable[Process]) -> list[Process]:
    return [process for process in processes if process.alive]


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait until `condition` holds, at most `timeout` seconds; return whether it does."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True
