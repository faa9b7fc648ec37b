"""Reading and changing the catalogs of this zone, as all services do it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from federation.draft import Draft
from federation.view import View
from federation.writer import Writer
from fedmarket.errors import AlreadyExists, NotFound, NotHome
from fedmarket.pb.fedmarket.v1.record_pb2 import ZoneRecord

T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Catalogs:
    """What this zone sees, and the writers of the two catalogs that it writes."""

    view: View
    federation: Writer
    private: Writer

    @property
    def zone(self) -> int:
        """The zone that this is."""
        return self.view.zone

    async def change(self, change: Callable[[Draft], T], *, private: bool) -> T:
        """Commit a change; what it raises is raised here, and then nothing was changed. What was committed is seen."""
        return (await (self.private if private else self.federation).commit(change)).value

    def require_home(self, home: int, what: str, does: str, instead: str = "") -> None:
        """Refuse to write what has another home: the rule, in its first place. Raises NotHome.

        `what` names the thing, `does` what only its home does with it, `instead` what else can be done.
        """
        if home == self.zone:
            return
        endpoint = self.endpoint(home)
        called = self.called(home)
        at = f", at {endpoint}" if endpoint else ""
        raise NotHome(
            f"{what} is at home in zone {called}, and only that zone {does}: ask there{at}{instead}",
            home_zone=str(home),
            home_endpoint=endpoint,
        )

    def endpoint(self, zone: int) -> str:
        """Return the address for clients that a zone has published; empty if it is not known."""
        found = self.view.get(ZoneRecord, zone)
        return found.message.grpc_endpoint if found else ""

    def called(self, zone: int) -> str:
        """Return a zone's name and id, as messages name it."""
        name = self.view.zone_name(zone)
        return f"{name} ({zone})" if name != str(zone) else name


def require(draft: Draft, message: type[M], record_id: int, what: str) -> M:
    """Return a record of the draft to be read. Raises NotFound if it went away meanwhile."""
    record = draft.get(message, record_id)
    if record is None:
        raise NotFound(f"{what} with id {record_id} was deleted meanwhile: look at the list")
    return record.message


def edit(draft: Draft, message: type[M], record_id: int, what: str, change: Callable[[M], None]) -> None:
    """Change a record of the draft. Raises NotFound if it went away meanwhile."""
    record = draft.get(message, record_id)
    if record is None:
        raise NotFound(f"{what} with id {record_id} was deleted meanwhile: look at the list")
    change(record.message)
    draft.put(record_id, record)


def taken(what: str, name: str, record_id: int, zone: str = "") -> AlreadyExists:
    """Return the refusal of a name that is in use, by a thing of the same catalog where no zone is given."""
    of_zone = f" of zone {zone}" if zone else ""
    return AlreadyExists(f"the name {name!r} is taken by {what} {record_id}{of_zone}: choose another name")
