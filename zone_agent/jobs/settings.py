"""Bounds of jobs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JobSettings:
    """Bounds of an agent's jobs."""

    at_once: int = 4
    """Jobs that move bytes at a time; more wait. Each keeps a disk, a link and a thread or two busy."""
    queue: int = 1000
    """Jobs of an agent that have not ended; more are told to come back."""
    write_seconds: float = 2.0
    """Between two writes of a job's progress, and two looks whether another agent was asked to cancel it."""
    poll_seconds: float = 0.5
    """Between two looks at a job that another agent runs."""
    cancel_seconds: float = 10.0
    """How long to wait for another agent to stop a job."""
    deaths: int = 3
    """A job on which so many agents died is not begun again."""


DEFAULTS = JobSettings()
