"""A zone's home that lies: a peer server with the zone's real key, which says what a test tells it to say."""

import queue
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Self

import grpc

from federation.head import FEDERATION, Head, SealedHead, seal
from federation.records import encode, new_record
from federation.tree import Tree
from federation.trust import Identity, PublicKey, ZoneKey
from fedmarket.pb.fedmarket.v1.peer_pb2 import (
    Beat,
    Bucket,
    Commit,
    Diff,
    Entry,
    ForwardRequest,
    ForwardResponse,
    FromSink,
    FromSource,
    LocateRequest,
    LocateResponse,
    RecoverRequest,
    Refusal,
    SettleRequest,
    Welcome,
)
from fedmarket.pb.fedmarket.v1.peer_pb2_grpc import PeerServiceServicer, add_PeerServiceServicer_to_server
from fedmarket.pb.fedmarket.v1.record_pb2 import MarketRecord, ZoneRecord
from tests.support.zones import Zone


def market(name: str) -> bytes:
    """Return the bytes of a market's record."""
    return encode(new_record(MarketRecord(name=name, driver="http")))


class HostileHome(PeerServiceServicer):
    """Serves a catalog that holds to one zone, which it makes follow it, and then what `say` is given.

    Use as a context.
    """

    def __init__(self, zone: int, key: ZoneKey, follower: Zone, records: Mapping[str, bytes] = {}) -> None:
        self.zone = zone
        self.key = key
        self.located = LocateResponse()
        """What it answers to Locate, whatever the app."""
        self.tree = Tree.of({f"zone/{zone}": encode(new_record(ZoneRecord(name=f"liar-{zone}"))), **records})
        self.head = seal(Head(zone, FEDERATION, 1, 1, self.tree.root, self.tree.count, {}, b"", "hostile", 0), key)
        self._said: queue.SimpleQueue[FromSource | None] = queue.SimpleQueue()
        self._server = grpc.server(ThreadPoolExecutor(8))
        add_PeerServiceServicer_to_server(self, self._server)
        identity = Identity(zone, key, {follower.id: PublicKey.parse(follower.key)})
        self.port = self._server.add_secure_port("127.0.0.1:0", identity.server_credentials())
        follower.follow(zone, self.port, str(key.public))

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._said.put(None)
        self._server.stop(None).wait()

    def Forward(self, request: ForwardRequest, context: Any) -> ForwardResponse:  # noqa: N802
        """Refuse every change."""
        return ForwardResponse(refusal=Refusal(code="refused", text="no"))

    def Settle(self, request: SettleRequest, context: Any) -> ForwardResponse:  # noqa: N802
        """Know of no request."""
        return ForwardResponse(refusal=Refusal(code="refused", text="no"))

    # -- what a home can say

    def next_head(self, tree: Tree, **changes: Any) -> SealedHead:
        """Sign the head that follows the honest one, over `tree`; `changes` are lies in it."""
        honest = replace(
            self.head.head, seq=self.head.head.seq + 1, prev=self.head.hash, root=tree.root, count=tree.count
        )
        return seal(replace(honest, **changes), self.key)

    def commit(
        self, puts: Mapping[str, bytes], *, head: SealedHead | None = None, deletes: tuple[str, ...] = ()
    ) -> FromSource:
        """Return a commit of these records, under a head that holds unless another one is given."""
        sealed = head or self.next_head(self.tree.apply(puts, deletes))
        entries = [Entry(key=key, value=value) for key, value in puts.items()]
        return FromSource(commit=Commit(head=sealed.signed, puts=entries, deletes=deletes))

    def beat(self, head: SealedHead) -> FromSource:
        return FromSource(beat=Beat(head=head.signed))

    def say(self, message: FromSource) -> None:
        """Send a message on the stream that is open, or on the next one."""
        self._said.put(message)

    # -- the service

    def Follow(self, request_iterator: Iterator[FromSink], context: grpc.ServicerContext) -> Iterator[FromSource]:  # noqa: N802 -- grpc's name
        """Bring the follower to the honest state, then say what there is to say."""
        yield FromSource(welcome=Welcome(protocol=1, head=self.head.signed))
        hello = next(request_iterator).hello
        if hello.diff or not hello.HasField("have"):
            yield FromSource(diff=Diff(head=self.head.signed, buckets=self.tree.digests))
            for message in request_iterator:
                if message.WhichOneof("message") != "want":
                    break  # the Ack of the whole state
                content = self.tree.bucket(message.want.bucket)
                puts = [Entry(key=key, value=leaf.value) for key, leaf in content.items()]
                yield FromSource(bucket=Bucket(index=message.want.bucket, puts=puts, last=True))
        yield self.beat(self.head)
        while (said := self._said.get()) is not None:
            yield said

    def Locate(self, request: LocateRequest, context: grpc.ServicerContext) -> LocateResponse:  # noqa: N802 -- grpc's name
        return self.located

    def Recover(self, request: RecoverRequest, context: grpc.ServicerContext) -> Iterator[Commit]:  # noqa: N802 -- grpc's
        """Give nothing back."""
        return iter(())
