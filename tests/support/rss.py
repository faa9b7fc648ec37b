"""What a process takes of memory."""

from pathlib import Path


def rss_mib(pid: int | str = "self") -> float:
    """Return the resident memory of a process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024
