"""Who asks: (home zone, uid), never a bare uid."""

from dataclasses import dataclass

from fedmarket.pb.fedmarket.v1.record_pb2 import Owner

ADMIN_UID = 0
ADMIN_GID = 0
BUILTIN_USERS = {0: "oneadmin", 1: "serveradmin"}
BUILTIN_GROUPS = {0: "oneadmin", 1: "users"}


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who was authenticated."""

    zone: int
    uid: int
    gid: int

    def owner(self) -> Owner:
        """Return the owner of what this principal makes."""
        return Owner(zone=self.zone, uid=self.uid, gid=self.gid)

    @property
    def is_admin(self) -> bool:
        """Whether this is an administrator: the user oneadmin, or a member of the group oneadmin."""
        return self.uid == ADMIN_UID or self.gid == ADMIN_GID


def user_name(owner: Owner) -> str:
    """Return the name of an owner; its number where no user of that id is known."""
    return BUILTIN_USERS.get(owner.uid, str(owner.uid))


def group_name(owner: Owner) -> str:
    """Return the name of an owner's group; its number where no group of that id is known."""
    return BUILTIN_GROUPS.get(owner.gid, str(owner.gid))


DEFAULT_MODE = 0o600
"""What is given to the owner of a new thing: use and manage (OpenNebula's default umask 177)."""


def permissions(mode: int) -> str:
    """Return a mode as people read it: `um-u--u--`."""
    return "".join(letter if mode & 1 << 8 - i else "-" for i, letter in enumerate("uma" * 3))
