"""What each verb does to a record: pure rules over a draft."""

from federation.draft import Draft
from fedmarket.errors import BadInput
from fedmarket.pb.fedmarket.v1.change_pb2 import Change
from zone_agent.services.principal import Principal


def apply(draft: Draft, change: Change, principal: Principal, now: int) -> None:
    """Change a record. Helper V writes this."""
    raise BadInput("no verb is known yet")
