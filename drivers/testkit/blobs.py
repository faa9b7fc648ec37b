"""What the suites do with blobs."""

import secrets
from typing import Protocol

from drivers.capabilities import Deletable, Readable, Writable
from fedmarket.errors import NotFound

HOSTILE_NAMES = [
    "", ".", "..", "../escape", "/etc/passwd", "a/b", "a\\b", ".hidden", "a\0b", "a\nb", "a\x7fb", "a b", "ä",
    "a" * 300,
]  # fmt: skip


class Store(Readable, Writable, Protocol):
    """Blobs go in and come out: the least that the suites need."""


class DeletableStore(Store, Deletable, Protocol):
    """A store whose blobs can be removed."""


def new_name() -> str:
    """Return an object name that nothing in a shared store has."""
    return f"testkit-{secrets.token_hex(8)}"


def new_fence() -> str:
    """Return the fence of a job of its own."""
    return f"job-{secrets.token_hex(8)}"


def put(driver: Writable, name: str, data: bytes) -> None:
    """Store a blob."""
    with driver.stage(name, new_fence(), len(data)) as staging:
        if data:
            staging.write(0, data)
        staging.commit()


def get(driver: Readable, name: str) -> bytes:
    """Read a whole blob."""
    with driver.open(name) as blob:
        return blob.read()


def is_visible(driver: Readable, name: str) -> bool:
    """Tell whether a reader finds the blob."""
    try:
        driver.open(name).close()
    except NotFound:
        return False
    return True


def sweep_of(driver: Writable, *dead: str) -> int:
    """Sweep what the jobs with these fences left, as if every other job were running; return how many were removed."""
    return driver.sweep(lambda fence: fence not in dead)
