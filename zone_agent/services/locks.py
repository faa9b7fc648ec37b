"""Locks of apps and images: what each level bars, and to whom. OpenNebula's rule."""

from enum import IntEnum

from fedmarket.errors import BadInput, Denied, Refused
from fedmarket.pb.fedmarket.v1.record_pb2 import LOCK_LEVEL_NONE, Lock, LockLevel
from zone_agent.services.principal import Principal, user_name


class Operation(IntEnum):
    """What is asked of a thing, in OpenNebula's order: each level of a lock bars what is not below it."""

    USE = 1
    MANAGE = 2
    ADMIN = 4


def require_unlocked(what: str, lock: Lock, operation: Operation) -> None:
    """Raise Refused if a lock bars an operation.

    USE bars use, manage and admin; MANAGE bars manage and admin; ADMIN bars admin; a level of a later version, which is
    not known here, bars everything. Nobody is exempt, an administrator
    neither: who may lift the lock lifts it first. Showing a thing, and the lock itself, are barred by none.
    """
    known = lock.level in LockLevel.values()
    if lock.level != LOCK_LEVEL_NONE and (operation >= lock.level or not known):
        raise Refused(
            f"{what} is locked by user {user_name(lock.owner)} of zone {lock.owner.zone}, and that bars "
            f"{operation.name.lower()}: unlock it first"
        )


def set_lock(what: str, lock: Lock, level: LockLevel.ValueType, principal: Principal, now: int) -> None:
    """Lock, lock at another level, or unlock by level NONE.

    Raises Denied unless it is free or who asks holds it or is an administrator; BadInput for a level that is none.
    """
    if level not in LockLevel.values():
        raise BadInput(f"there is no lock level {level}: choose use, manage or admin")
    owner = principal.owner()
    holds = (lock.owner.zone, lock.owner.uid) == (owner.zone, owner.uid)
    if lock.level != LOCK_LEVEL_NONE and not (holds or principal.is_admin):
        raise Denied(
            f"{what} is locked by user {user_name(lock.owner)} of zone {lock.owner.zone}: only that user, or an "
            "administrator, lifts the lock"
        )
    lock.Clear()
    if level != LOCK_LEVEL_NONE:
        lock.level, lock.time = level, now
        lock.owner.CopyFrom(owner)
