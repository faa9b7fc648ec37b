"""What a catalog of many records does ahead, in a thread: the loop must not stand still for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from federation.index import Index
from federation.tree import Tree
from fedmarket.threads import in_thread

MANY = 2000
"""Records that take some 50 ms to be hashed and looked at; as many and fewer are not worth a thread."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """What it takes to let readers see one tree instead of another."""

    before: Tree
    after: Tree
    changed: frozenset[str]
    index: Index | None
    """Of `after`; None if so few records have changed that the index of `before` is brought up to date."""


def step(before: Tree, after: Tree) -> Step:
    """Return the step from one tree to another. Blocking."""
    changed = frozenset(after.changed_keys(before))
    return Step(before, after, changed, Index.of(after) if len(changed) > MANY else None)


async def aside(work: Callable[[], T], records: int) -> T:
    """Do what takes long for many records, in a thread if there are so many."""
    return await in_thread(work) if records > MANY else work()
