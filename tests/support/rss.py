"""What a process takes of memory."""

from pathlib import Path


def rss_mib(pid: int | str = "self") -> float:
    """Return the resident memory of a process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


def pss_mib(pid: int | str = "self") -> float:
    """Return the proportional memory of a process, in MiB: of a page that n processes share, an n-th."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024
