"""Stores on disks that are full or closed to us, for real: each case runs in a process that is limited so."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PRELUDE = """
import os, resource, sys
from pathlib import Path
from drivers.files import STAGING, BlobDirectory
from drivers.testkit.blobs import get, is_visible, put
from fedmarket.errors import FedmarketError

MIB = 1 << 20
store = BlobDirectory(Path(sys.argv[1]), file_mode=0o644)

def told(call):
    try:
        call()
    except FedmarketError as error:
        print(type(error).__name__, error.message)
"""

WRITE_8_MIB = """
def reserved():
    write(store.stage("large", "job", 8 * MIB))

def not_reserved():
    # As on a file system that cannot reserve (NFS before 4.2): a write finds out.
    write(store._stage("large", "job", 8 * MIB))

def write(staging):
    with staging:
        for start in range(0, 8 * MIB, MIB):
            staging.write(start, bytes(MIB))
        staging.commit()

for attempt in (reserved, not_reserved):
    told(attempt)
    assert not is_visible(store, "large")
    assert not list((store.root / STAGING).iterdir())
put(store, "small", b"still works")
assert get(store, "small") == b"still works"
"""


def run(code: str, store: Path, before: list[str] | None = None) -> list[str]:
    """Run Python code in a child, below the command `before`; return the lines it printed."""
    command = [*(before or []), sys.executable, "-c", PRELUDE + code, str(store)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def own_mounts() -> list[str] | None:
    """Return the command that gives a child mounts of its own, or None where this user may not have them."""
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    probe = subprocess.run(
        [*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, timeout=60, check=False
    )
    return unshare if probe.returncode == 0 else None


UNSHARE = own_mounts()
FULL = {
    "a limit on file sizes": "because a file may not grow so large: raise the limit",
    # Left out where this user may not mount: the limit above then stands for every kind of full.
    **({"a disk of 4 MiB": "where 4.0 MiB are free: free another 4.0 MiB there"} if UNSHARE else {}),
}


@pytest.mark.parametrize("kind", FULL)
def test_what_is_full_says_so_and_keeps_nothing(kind: str, tmp_path: Path) -> None:
    if kind == "a disk of 4 MiB":
        mount = 'mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@"'
        lines = run(WRITE_8_MIB, tmp_path, [*(UNSHARE or []), "sh", "-c", mount, str(tmp_path)])
    else:
        lines = run("resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB, 3 * MIB))\n" + WRITE_8_MIB, tmp_path)
    assert len(lines) == 2  # with the space reserved, and without
    for line in lines:
        assert line.startswith("NoSpace")
        assert str(tmp_path) in line
        assert FULL[kind] in line


CLOSED = """
if os.geteuid() == 0:  # whom permission bits do not stop
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
told(store.check)
told(lambda: store.stage("blob", "job", 1))
"""


@pytest.fixture
def closed() -> Iterator[Path]:
    """A directory that nobody may write; not in tmp_path, which only its owner may enter."""
    directory = Path(tempfile.mkdtemp(prefix="closed-"))
    directory.chmod(0o555)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


@pytest.mark.parametrize("below", ["", "market", "deep/market"])
def test_a_directory_that_may_not_be_written_is_refused(closed: Path, below: str) -> None:
    check, stage = run(CLOSED, closed / below)
    for line in (check, stage):
        assert line.startswith(f"Refused {closed / below}")
        assert "is not accessible to the user of this agent (uid" in line
    assert not list(closed.iterdir())


def test_a_directory_that_was_closed_later_is_refused(closed: Path) -> None:
    closed.chmod(0o777)
    run(CLOSED, closed)
    (closed / ".staging").chmod(0o777)
    closed.chmod(0o555)
    for line in run(CLOSED, closed):
        assert line.startswith(f"Refused {closed} is not accessible")
