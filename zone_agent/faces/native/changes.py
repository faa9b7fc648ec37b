"""fedmarket.v1.ChangeService: changes of records of any zone."""

from typing import Any

from fedmarket.pb.fedmarket.v1 import change_pb2, change_pb2_grpc
from fedmarket.pb.fedmarket.v1.peer_pb2 import Refusal
from zone_agent.faces.native.gate import caller
from zone_agent.faces.native.project import ref
from zone_agent.services.changes import ChangeService
from zone_agent.services.zones import ZoneService

# ruff: noqa: D102 -- the methods are named, and described, in proto/fedmarket/v1


class Changes(change_pb2_grpc.ChangeServiceServicer):
    """fedmarket.v1.ChangeService."""

    def __init__(self, changes: ChangeService, zones: ZoneService) -> None:
        self._changes = changes
        self._zones = zones

    async def Change(self, request: change_pb2.ChangeRequest, context: Any) -> change_pb2.ChangeResponse:
        changed = await self._changes.change(caller(), request.kind, ref(request.ref), request.verb, request.request_id)
        return change_pb2.ChangeResponse(
            id=changed.id, zone_id=changed.home, visible=changed.visible, request_id=changed.request_id
        )

    async def Resolve(self, request: change_pb2.ResolveRequest, context: Any) -> change_pb2.ResolveResponse:
        zone = self._zones.show(ref(request.zone) if request.HasField("zone") else None)
        outcome = await self._changes.resolve(request.request_id, zone.id)
        if isinstance(outcome, Refusal):
            return change_pb2.ResolveResponse(text=outcome.text)
        return change_pb2.ResolveResponse(done=True, id=outcome.id)
