"""Object names and fences: what may become part of a path or of a key."""

import re

from fedmarket.errors import BadInput

MAX_OBJECT_NAME = 190
"""Bytes. With a dot and the longest fence it is still a file name (255) while it is staged."""
MAX_FENCE = 64
"""Bytes."""

_OBJECT_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", re.ASCII)
_FENCE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def check_object_name(name: str) -> str:
    """Return `name` unchanged, or raise BadInput: letters, digits, `.`, `_`, `-`, no dot in front, 1 to 190 bytes."""
    if len(name) > MAX_OBJECT_NAME or not _OBJECT_NAME.fullmatch(name):
        raise BadInput(
            f"{_shown(name)} is not an object name: give 1 to {MAX_OBJECT_NAME} letters, digits, '.', '_' or '-', "
            "not starting with a dot"
        )
    return name


def check_fence(fence: str) -> str:
    """Return `fence` unchanged, or raise BadInput: letters, digits, `_`, `-` (no dot), 1 to 64 bytes."""
    if len(fence) > MAX_FENCE or not _FENCE.fullmatch(fence):
        raise BadInput(f"{_shown(fence)} is not a job's fence: give 1 to {MAX_FENCE} letters, digits, '_' or '-'")
    return fence


def _shown(name: str) -> str:
    return repr(name) if len(name) <= 40 else f"{name[:40]!r}..."
