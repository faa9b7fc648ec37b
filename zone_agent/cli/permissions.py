"""Permissions, users and groups as people write them."""

import re

from fedmarket.errors import BadInput
from fedmarket.pb.fedmarket.v1.change_pb2 import Chmod, Chown
from zone_agent.services.principal import BUILTIN_GROUPS, BUILTIN_USERS

ALL_BITS = 0o777
MAX_ID = 2**31 - 1

_OCTAL = re.compile(r"[0-7]{3}", re.ASCII)
_LETTERS = re.compile(r"(?:[u-][m-][a-]){3}", re.ASCII)
_PART = re.compile(r"([ugo]+)([+-])([uma]+)", re.ASCII)
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"u": 4, "m": 2, "a": 1}


def chmod(text: str) -> Chmod:
    """Read permissions: `640`, `um-u-----`, or only what is to change, as `g+u,o-um`. Raises BadInput.

    Before the sign stand owner (u), group (g) and others (o), behind it use (u), manage (m) and administer (a).
    """
    if _OCTAL.fullmatch(text):
        mode = int(text, 8)
        return Chmod(set=mode, clear=ALL_BITS & ~mode)
    if _LETTERS.fullmatch(text):
        mode = int("".join("0" if letter == "-" else "1" for letter in text), 2)
        return Chmod(set=mode, clear=ALL_BITS & ~mode)
    wanted = Chmod()
    for part in text.split(","):
        found = _PART.fullmatch(part)
        if found is None:
            raise BadInput(f"{text!r} are no permissions: write 640, um-u----- or g+u,o-um")
        classes, sign, letters = found.groups()
        bits = sum({_BITS[letter] << _SHIFTS[of] for of in classes for letter in letters})
        if sign == "+":
            wanted.set, wanted.clear = wanted.set | bits, wanted.clear & ~bits
        else:
            wanted.clear, wanted.set = wanted.clear | bits, wanted.set & ~bits
    return wanted


def chown(user: str | None, group: str | None) -> Chown:
    """Return a change of owner, of what is given. Raises BadInput for a name that is not known."""
    return Chown(
        uid=None if user is None else _numbered(user, "user", BUILTIN_USERS),
        gid=None if group is None else _numbered(group, "group", BUILTIN_GROUPS),
    )


def _numbered(text: str, what: str, names: dict[int, str]) -> int:
    if text.isascii() and text.isdigit() and int(text) <= MAX_ID:
        return int(text)
    for number, name in names.items():
        if text == name:
            return number
    raise BadInput(f"there is no {what} {text[:40]!r}: give an id, or one of {', '.join(names.values())}")
