"""Named points at which a test can end an agent, hold it up or let it fail, to see what becomes of what it was doing.

Switched by the environment only: `FEDMARKET_FAILPOINT=name[=action][@n]`, read once, when this is imported. Not set, as
in any agent that serves somebody, a point costs one comparison.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from enum import Enum

from fedmarket.errors import BadInput, Internal

VARIABLE = "FEDMARKET_FAILPOINT"
DELAY_SECONDS = 1.0
"""What `delay` takes. It blocks, as a slow disk does; on the event loop, that too."""


class Failpoint(Enum):
    """Each is just after the step that its name tells, but for the first."""

    COMMIT_BEFORE = "commit-before"
    """A commit is built, and not sent to etcd."""
    COMMIT_AFTER = "commit-after"
    """etcd has it, and nobody here knows."""

    JOB_CLAIMED = "job-claimed"
    """The agent has said that it is at work on the object; the job is not written down."""
    JOB_WRITTEN = "job-written"
    JOB_BEGUN = "job-begun"
    """Its turn has come."""
    JOB_WORKED = "job-worked"
    """All is done that it was to do; its record does not say so."""
    JOB_JUDGED = "job-judged"
    """It has failed, and its record says why; what it made is still LOCKED."""
    JOB_UNDONE = "job-undone"
    """What it made is in ERROR; its record does not say that it has ended."""
    JOB_ENDED = "job-ended"
    """Its record says how it ended; the agent still holds its fence."""
    JOB_REOPENED = "job-reopened"
    """A job that had ended is asked for again; what it makes is not LOCKED again."""
    JOB_PREPARED = "job-prepared"
    """What an earlier attempt left is removed, and what it makes is LOCKED again."""

    CREATE_LOCKED = "create-locked"
    CREATE_HELD = "create-held"
    """The image is marked as in use."""
    CREATE_COPIED = "create-copied"
    CREATE_PUBLISHED = "create-published"
    CREATE_RELEASED = "create-released"
    """The image is free again."""
    CREATE_READY = "create-ready"

    EXPORT_LOCKED = "export-locked"
    EXPORT_FETCHED = "export-fetched"
    EXPORT_CONVERTED = "export-converted"
    EXPORT_PUBLISHED = "export-published"
    EXPORT_READY = "export-ready"

    IMPORT_LOCKED = "import-locked"
    IMPORT_RECEIVED = "import-received"
    IMPORT_PUBLISHED = "import-published"
    IMPORT_READY = "import-ready"

    DELETE_MARKED = "delete-marked"
    DELETE_REMOVED = "delete-removed"
    """The bytes are gone; the record is there."""
    DELETE_DROPPED = "delete-dropped"

    DOWNLOAD_FETCHED = "download-fetched"
    DOWNLOAD_PUBLISHED = "download-published"

    CLONE_LOCKED = "clone-locked"
    CLONE_HELD = "clone-held"
    CLONE_COPIED = "clone-copied"
    CLONE_PUBLISHED = "clone-published"
    CLONE_RELEASED = "clone-released"
    CLONE_READY = "clone-ready"


class Action(Enum):
    """What happens at a point."""

    KILL = "kill"
    """The process ends, as by SIGKILL from outside."""
    ERROR = "error"
    DELAY = "delay"


@dataclass(slots=True)
class Armed:
    """The one point at which something happens."""

    point: Failpoint
    action: Action
    left: int
    """How often it is still passed without harm, and then once more."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def parse(cls, text: str) -> "Armed":
        """Read `name[=action][@n]`: the action is kill unless it is said, n is 1. Raises BadInput."""
        rest, _, times = text.partition("@")
        name, _, action = rest.partition("=")
        try:
            return cls(Failpoint(name), Action(action or "kill"), int(times or "1"))
        except ValueError:
            raise BadInput(
                f"{VARIABLE}={text[:80]} names no failpoint: give name[=kill|error|delay][@n], a name of "
                "fedmarket/failpoints.py"
            ) from None

    def passed(self) -> None:
        """Do what is to be done, if this is the time for it. Raises Internal for `error`."""
        with self.lock:
            self.left -= 1
            due = self.left == 0
        if not due:
            return
        match self.action:
            case Action.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case Action.ERROR:
                raise Internal(f"failpoint {self.point.value} was reached: unset {VARIABLE}")
            case Action.DELAY:
                time.sleep(DELAY_SECONDS)


_armed = Armed.parse(os.environ[VARIABLE]) if VARIABLE in os.environ else None


def hit(point: Failpoint) -> None:
    """Pass a point. Called from any thread."""
    if _armed is not None and _armed.point is point:
        _armed.passed()
