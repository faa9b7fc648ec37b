"""A later version of fedmarket: its schema, which knows more than this one's, and what it writes with it."""

import secrets
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from federation.head import DOMAIN
from federation.keys import HEAD
from federation.records import SCHEMA
from federation.store import Txn
from fedmarket.pb.fedmarket.v1 import change_pb2, common_pb2, head_pb2, peer_pb2, record_pb2
from tests.support.agent import AgentZone
from tests.support.federation import Zone

STRING = FieldDescriptorProto.TYPE_STRING
MESSAGE = FieldDescriptorProto.TYPE_MESSAGE
ADDED = 100
"""Number of the fields that the later version has added, beyond all that this one uses."""
NEW_STATE = 77
"""Of enums: a value that this version does not know."""
NEW_SCHEMA = SCHEMA + 1


def _files() -> dict[str, FileDescriptorProto]:
    files = {}
    for module in (record_pb2, head_pb2, common_pb2, change_pb2, peer_pb2):
        files[module.DESCRIPTOR.name] = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(files[module.DESCRIPTOR.name])
    return files


def _message(file: FileDescriptorProto, name: str) -> DescriptorProto:
    return next(message for message in file.message_type if message.name == name)


def _add(message: DescriptorProto, name: str, kind: FieldDescriptorProto.Type.ValueType = STRING, of: str = "") -> None:
    """Add a field; in a message that is all one alternative, as a further one."""
    field = message.field.add(
        name=name, number=ADDED + len(message.field), type=kind, label=FieldDescriptorProto.LABEL_OPTIONAL
    )
    if of:
        field.type_name = f".fedmarket.v1.{of}"
    if message.oneof_decl and message.name in {"Attribute", "FromSink", "FromSource", "Verb"}:
        field.oneof_index = 0


def _later() -> DescriptorPool:
    files = _files()
    records, heads = files["fedmarket/v1/record.proto"], files["fedmarket/v1/head.proto"]
    quota = records.message_type.add(name="QuotaRecord")
    _add(quota, "name")
    _add(quota, "limit")
    for name in ("ZoneRecord", "MarketRecord", "AppRecord", "ImageRecord", "DatastoreRecord"):
        _add(_message(records, name), "licence")
        _add(_message(records, name), "quota", MESSAGE, "QuotaRecord")
    for name in ("Envelope", "Owner", "Lock", "Template", "Failure", "Attribute"):
        _add(_message(records, name), "origin")
    for name in ("MarketState", "AppState", "AppType", "ImageState", "ZoneState"):
        enum = next(enum for enum in records.enum_type if enum.name == name)
        enum.value.add(name=f"{name}_NEW", number=NEW_STATE)
    for name in ("Head", "NextId", "SignedHead"):
        _add(_message(heads, name), "origin")
    peer = files["fedmarket/v1/peer.proto"]
    for name in ("FromSink", "FromSource"):
        _add(_message(peer, name), "chat")
    for name in ("Hello", "Welcome", "Commit", "Entry", "Bucket", "ForwardRequest"):
        _add(_message(peer, name), "origin")
    _add(_message(files["fedmarket/v1/change.proto"], "Verb"), "archive", MESSAGE, "Delete")
    pool = DescriptorPool()
    for file in files.values():
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _later()


def later(name: str) -> Any:
    """Return the class of a message of fedmarket.v1 as the later version has it."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"fedmarket.v1.{name}"))


def later_record(message: Any, *, min_reader: int = SCHEMA) -> bytes:
    """Return a record's bytes as the later version writes them."""
    envelope = later("Envelope")(
        uid=secrets.token_bytes(16), min_reader=min_reader, payload=message.SerializeToString(), origin="later"
    )
    return bytes(envelope.SerializeToString())


def read(name: str, value: bytes) -> tuple[Any, Any]:
    """Return a record's envelope and message as the later version reads them."""
    envelope = later("Envelope").FromString(value)
    return envelope, later(name).FromString(envelope.payload)


def later_market(name: str = "m", *, min_reader: int = SCHEMA) -> bytes:
    """Return a market that says all that the later version can say."""
    return later_record(
        later("MarketRecord")(
            name=name,
            owner={"zone": 0, "uid": 0, "gid": 0, "origin": "of an owner"},
            mode=0o600,
            state=NEW_STATE,
            driver="http",
            template={
                "attributes": [{"name": "A", "value": "1"}, {"name": "B", "origin": "neither a text nor a vector"}],
                "origin": "of a template",
            },
            licence="GPL",
            quota={"name": "q", "limit": "10 apps"},
        ),
        min_reader=min_reader,
    )


def later_app(name: str, market_id: int, *, min_reader: int = SCHEMA, **fields: Any) -> bytes:
    """Return an app that says more than this version knows."""
    app = later("AppRecord")(name=name, market_id=market_id, licence="MIT", **{"state": NEW_STATE, **fields})
    return later_record(app, min_reader=min_reader)


def later_quota(name: str = "q") -> bytes:
    """Return a record of a kind that this version does not know."""
    return later_record(later("QuotaRecord")(name=name, limit="10 apps"))


async def write_as_later(
    zone: Zone | AgentZone, records: dict[str, bytes], *, private: bool = False, **next_ids: int
) -> None:
    """Commit records as an agent of the later version does, whose heads say more too."""
    prefix = zone.keyspace.private if private else zone.keyspace.own
    catalog = zone.private if isinstance(zone, AgentZone) and private else zone.own
    state = catalog.state
    assert state is not None
    before, tree = state.head, state.tree.apply(records)
    body = later("Head").FromString(before.signed.body)
    body.seq, body.prev, body.root, body.count = before.head.seq + 1, before.hash, tree.root, tree.count
    body.agent, body.origin = "later", "of a head"
    for kind, n in next_ids.items():
        body.next_ids.add(kind=kind, next=n, origin="of a next id")
    raw = body.SerializeToString()
    key_id, sig = zone.key.public.key_id, zone.key.sign(DOMAIN + raw)
    signed = later("SignedHead")(body=raw, key_id=key_id, sig=sig, origin="of a signed head")
    puts = {prefix + key: value for key, value in records.items()}
    puts[prefix + HEAD] = signed.SerializeToString()
    assert (await zone.store.txn(Txn({}, puts=puts))).succeeded
    await catalog.wait_for((before.head.epoch, body.seq), 10)
