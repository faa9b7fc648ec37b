"""etcd's own alarms, as each member's status tells of them: it needs no leader for that."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedmarket.pb.etcd import rpc_pb2 as rpc

NOSPACE = "NOSPACE"
"""A member is over its quota: etcd takes no changes but deletes."""
CORRUPT = "CORRUPT"
"""Members hold different data: etcd takes no changes."""

_ALARM = re.compile(r"memberID:(?P<member>\d+)\s+alarm:(?P<kind>\w+)", re.ASCII)  # protobuf's text, in all versions


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that is on."""

    member: int
    kind: str


def alarms_in(status: rpc.StatusResponse) -> Sequence[Alarm]:
    """Return the alarms of the whole cluster that a member knows of."""
    found = (_ALARM.search(error) for error in status.errors)
    return [Alarm(int(match["member"]), match["kind"]) for match in found if match]


def errors_in(status: rpc.StatusResponse) -> Sequence[str]:
    """Return what else is wrong with a member, for instance that it knows no leader."""
    return [error for error in status.errors if not _ALARM.search(error)]
