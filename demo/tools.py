"""What the demo takes from the machine: programs, and Debian's packages."""

import subprocess
from pathlib import Path

from demo.errors import DemoError

ROOT = Path(__file__).resolve().parent.parent
"""The project's directory."""
TIMEOUT = 600.0
"""Seconds for fetching packages, over a slow line too."""


def need(*tools: str) -> None:
    """Make sure that programs are there; deploy/need says what it had to bring. Raises DemoError."""
    if _deploy("need", *tools) != 0:
        raise DemoError("The demo cannot run without what is missing above")


def unpack(package: str, directory: Path) -> bool:
    """Unpack a Debian package into a directory, installing nothing; return whether it could be had."""
    return _deploy("unpack", package, str(directory), quiet=True) == 0


def _deploy(script: str, *words: str, quiet: bool = False) -> int:
    stderr = subprocess.DEVNULL if quiet else None
    try:
        return subprocess.run(
            [ROOT / "deploy" / script, *words], stdin=subprocess.DEVNULL, stderr=stderr, timeout=TIMEOUT, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return 1
