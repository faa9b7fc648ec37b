"""Mutual TLS between zones, with real grpc servers and channels on the loopback."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from federation.trust import Identity, ZoneKey, anchor
from fedmarket.errors import FedmarketError, cause_of
from fedmarket.pb.fedmarket.v1 import peer_pb2, peer_pb2_grpc

BERLIN, TOKYO, LIMA = 0, 100, 7
RPC_SECONDS = 20.0
DAY = timedelta(days=1)
REFUSED_BY_TLS = grpc.StatusCode.UNAVAILABLE
REFUSED_BY_HANDLER = grpc.StatusCode.PERMISSION_DENIED
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Clock:
    """The machine's clock, set wrong by `shift`: TLS itself always reads the machine's."""

    def __init__(self, shift: timedelta = timedelta(0)) -> None:
        self.shift = shift

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.shift


class WhoCalls(peer_pb2_grpc.PeerServiceServicer):
    """Answers every call with the zone that asked."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    async def Locate(  # noqa: N802 -- grpc's name
        self, request: peer_pb2.LocateRequest, context: Context
    ) -> peer_pb2.LocateResponse:
        return peer_pb2.LocateResponse(sources=[peer_pb2.Source(zone_id=await self._caller(context))])

    async def Recover(  # noqa: N802 -- grpc's name
        self, request: peer_pb2.RecoverRequest, context: Context
    ) -> AsyncIterator[peer_pb2.Commit]:
        await self._caller(context)
        yield peer_pb2.Commit()

    async def Follow(  # noqa: N802 -- grpc's name
        self, request_iterator: AsyncIterator[peer_pb2.FromSink], context: Context
    ) -> AsyncIterator[peer_pb2.FromSource]:
        zone_id = await self._caller(context)
        yield peer_pb2.FromSource(refuse=peer_pb2.Refuse(code="zone", text=str(zone_id)))

    async def Forward(  # noqa: N802 -- grpc's name
        self, request: peer_pb2.ForwardRequest, context: Context
    ) -> peer_pb2.ForwardResponse:
        return peer_pb2.ForwardResponse(made=peer_pb2.Made(id=await self._caller(context)))

    async def Settle(  # noqa: N802 -- grpc's name
        self, request: peer_pb2.SettleRequest, context: Context
    ) -> peer_pb2.ForwardResponse:
        return peer_pb2.ForwardResponse(made=peer_pb2.Made(id=await self._caller(context)))

    async def _caller(self, context: Context) -> int:
        try:
            return self._identity.caller(context)
        except FedmarketError as error:
            await context.abort(grpc.StatusCode[cause_of(error).grpc], error.message)


class Zones:
    """Berlin serves; Tokyo and Lima are its peers, and know it."""

    def __init__(self) -> None:
        self.berlin_key, self.tokyo_key, self.lima_key = (ZoneKey.generate() for _ in range(3))
        self.peers = {TOKYO: self.tokyo_key.public, LIMA: self.lima_key.public}
        self.berlin_clock = Clock()
        self.berlin = Identity(BERLIN, self.berlin_key, self.peers, clock=self.berlin_clock)
        self.tokyo = self.client(TOKYO, self.tokyo_key)
        self.lima = self.client(LIMA, self.lima_key)

    def client(self, zone_id: int, key: ZoneKey, clock: Callable[[], datetime] | None = None) -> Identity:
        return Identity(zone_id, key, {BERLIN: self.berlin_key.public}, clock=clock or Clock())


@pytest.fixture
def zones() -> Zones:
    return Zones()


@asynccontextmanager
async def serving(identity: Identity, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[str]:
    server = grpc.aio.server()
    peer_pb2_grpc.add_PeerServiceServicer_to_server(WhoCalls(identity), server)
    port = server.add_secure_port("127.0.0.1:0", credentials or identity.server_credentials())
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


def dial(identity: Identity, address: str, zone_id: int = BERLIN) -> grpc.aio.Channel:
    made = identity.channel_credentials(zone_id)
    return grpc.aio.secure_channel(address, made.credentials, options=made.options)


async def who_am_i(channel: grpc.aio.Channel) -> int:
    answer = await peer_pb2_grpc.PeerServiceStub(channel).Locate(peer_pb2.LocateRequest(app_id=1), timeout=RPC_SECONDS)
    return answer.sources[0].zone_id


async def connect(identity: Identity, address: str, zone_id: int = BERLIN) -> int:
    """Make one call on a new channel; return the zone that the other side saw."""
    async with dial(identity, address, zone_id) as channel:
        return await who_am_i(channel)


async def refusal(identity: Identity, address: str, zone_id: int = BERLIN) -> grpc.StatusCode:
    async with dial(identity, address, zone_id) as channel:
        return (await refusal_on(channel)).code()


async def refusal_on(channel: grpc.aio.Channel) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await who_am_i(channel)
    return caught.value


def lying_channel(
    zones: Zones, address: str, key: ZoneKey, zone_id: int, names: Sequence[x509.GeneralName]
) -> grpc.aio.Channel:
    """A channel with a leaf that the key of `zone_id` really issued, but with names of its own choosing."""
    leaf = zones.client(zone_id, key).issue_leaf()
    honest = x509.load_pem_x509_certificate(leaf.certificate)
    builder = (
        x509.CertificateBuilder()
        .serial_number(honest.serial_number)
        .issuer_name(honest.issuer)
        .subject_name(honest.subject)
        .public_key(honest.public_key())
        .not_valid_before(honest.not_valid_before_utc)
        .not_valid_after(honest.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    forged = builder.sign(key.to_crypto(), algorithm=None).public_bytes(Encoding.PEM)
    return grpc.aio.secure_channel(
        address,
        grpc.ssl_channel_credentials(anchor(zones.berlin_key.public, BERLIN), leaf.private_key, forged),
        options=[("grpc.ssl_target_name_override", "zone-0.fedmarket")],
    )


async def test_the_handler_sees_which_peer_calls(zones: Zones) -> None:
    async with serving(zones.berlin) as address:
        assert await connect(zones.tokyo, address) == TOKYO
        assert await connect(zones.lima, address) == LIMA


async def test_a_stream_handler_sees_which_peer_calls(zones: Zones) -> None:
    async with serving(zones.berlin) as address, dial(zones.lima, address) as channel:
        call = peer_pb2_grpc.PeerServiceStub(channel).Follow(iter(()), timeout=RPC_SECONDS)
        answers = [answer async for answer in call]
    assert [answer.refuse.text for answer in answers] == ["7"]


async def test_two_ports_of_one_agent_both_answer(zones: Zones) -> None:
    async with serving(zones.berlin) as one, serving(zones.berlin) as other:
        assert await connect(zones.tokyo, one) == TOKYO
        assert await connect(zones.tokyo, other) == TOKYO


async def test_a_client_without_a_certificate_is_refused(zones: Zones) -> None:
    credentials = grpc.ssl_channel_credentials(anchor(zones.berlin_key.public, BERLIN))
    options = [("grpc.ssl_target_name_override", "zone-0.fedmarket")]
    async with (
        serving(zones.berlin) as address,
        grpc.aio.secure_channel(address, credentials, options=options) as channel,
    ):
        assert (await refusal_on(channel)).code() is REFUSED_BY_TLS


async def test_a_client_without_tls_is_refused(zones: Zones) -> None:
    async with serving(zones.berlin) as address, grpc.aio.insecure_channel(address) as channel:
        assert (await refusal_on(channel)).code() is REFUSED_BY_TLS


async def test_the_handler_refuses_a_caller_on_a_port_that_asks_for_no_certificate(zones: Zones) -> None:
    leaf = zones.berlin.issue_leaf()
    lax = grpc.ssl_server_credentials([(leaf.private_key, leaf.certificate)])
    async with serving(zones.berlin, lax) as address:
        assert await refusal(zones.tokyo, address) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_key_that_nobody_pinned_is_refused(zones: Zones) -> None:
    async with serving(zones.berlin) as address:
        assert await refusal(zones.client(TOKYO, ZoneKey.generate()), address) is REFUSED_BY_TLS
        assert await refusal(zones.client(8, ZoneKey.generate()), address) is REFUSED_BY_TLS


async def test_a_zone_without_peers_refuses_everybody(zones: Zones) -> None:
    zones.berlin.set_peers({})
    async with serving(zones.berlin) as address:
        assert await refusal(zones.tokyo, address) is REFUSED_BY_TLS


async def test_a_pinned_key_under_another_zone_id_is_refused(zones: Zones) -> None:
    async with serving(zones.berlin) as address:
        assert await refusal(zones.client(LIMA, zones.tokyo_key), address) is REFUSED_BY_TLS


@pytest.mark.parametrize(
    "names",
    [
        [x509.UniformResourceIdentifier("fedmarket://zone/7")],
        [x509.UniformResourceIdentifier("fedmarket://zone/7"), x509.DNSName("zone-100.fedmarket")],
    ],
    ids=["no host name", "its own host name"],
)
async def test_the_handler_refuses_a_peer_that_names_another_peer(zones: Zones, names: list[x509.GeneralName]) -> None:
    async with (
        serving(zones.berlin) as address,
        lying_channel(zones, address, zones.tokyo_key, TOKYO, names) as channel,
    ):
        error = await refusal_on(channel)
    assert error.code() is REFUSED_BY_HANDLER  # so TLS let it pass
    assert "names zone 7 but another key" in (error.details() or "")


async def test_tls_refuses_a_peer_that_takes_the_host_name_of_another(zones: Zones) -> None:
    names = [x509.UniformResourceIdentifier("fedmarket://zone/100"), x509.DNSName("zone-7.fedmarket")]
    async with (
        serving(zones.berlin) as address,
        lying_channel(zones, address, zones.tokyo_key, TOKYO, names) as channel,
    ):
        assert (await refusal_on(channel)).code() is REFUSED_BY_TLS


async def test_a_client_refuses_a_server_of_another_zone(zones: Zones) -> None:
    lima = Identity(LIMA, zones.lima_key, {TOKYO: zones.tokyo_key.public})
    tokyo = Identity(TOKYO, zones.tokyo_key, {BERLIN: zones.berlin_key.public, LIMA: zones.lima_key.public})
    async with serving(lima) as address:
        assert await connect(tokyo, address, LIMA) == TOKYO
        assert await refusal(tokyo, address, BERLIN) is REFUSED_BY_TLS


async def test_a_client_refuses_a_server_with_another_key(zones: Zones) -> None:
    impostor = Identity(BERLIN, ZoneKey.generate(), zones.peers)
    async with serving(impostor) as address:
        assert await refusal(zones.tokyo, address) is REFUSED_BY_TLS


async def test_a_client_refuses_the_pinned_key_under_another_zone_id(zones: Zones) -> None:
    renamed = Identity(1, zones.berlin_key, zones.peers)
    async with serving(renamed) as address:
        assert await refusal(zones.tokyo, address) is REFUSED_BY_TLS


async def test_an_expired_server_is_refused_and_renews_without_a_restart(zones: Zones) -> None:
    zones.berlin_clock.shift = -2 * DAY
    async with serving(zones.berlin) as address:
        assert await refusal(zones.tokyo, address) is REFUSED_BY_TLS
        zones.berlin_clock.shift = timedelta(0)
        assert await connect(zones.tokyo, address) == TOKYO


@pytest.mark.parametrize("shift", [-2 * DAY, DAY], ids=["expired", "not yet valid"])
async def test_a_client_outside_its_time_is_refused_until_it_renews(zones: Zones, shift: timedelta) -> None:
    clock = Clock(shift)
    tokyo = zones.client(TOKYO, zones.tokyo_key, clock)
    async with serving(zones.berlin) as address:
        assert await refusal(tokyo, address) is REFUSED_BY_TLS
        clock.shift = timedelta(0)
        assert await connect(tokyo, address) == TOKYO


async def test_a_leaf_that_expires_on_an_open_connection_is_refused_at_the_next_call(zones: Zones) -> None:
    async with serving(zones.berlin) as address, dial(zones.tokyo, address) as channel:
        assert await who_am_i(channel) == TOKYO
        zones.berlin_clock.shift = 2 * DAY
        error = await refusal_on(channel)
    assert error.code() is REFUSED_BY_HANDLER
    assert "connect anew" in (error.details() or "")


async def test_a_peer_that_is_removed_is_refused_until_it_is_back(zones: Zones) -> None:
    async with serving(zones.berlin) as address, dial(zones.tokyo, address) as opened_before:
        assert await who_am_i(opened_before) == TOKYO
        zones.berlin.set_peers({LIMA: zones.lima_key.public})
        assert await refusal(zones.tokyo, address) is REFUSED_BY_TLS
        assert (await refusal_on(opened_before)).code() is REFUSED_BY_HANDLER
        assert await connect(zones.lima, address) == LIMA
        zones.berlin.set_peers(zones.peers)
        assert await connect(zones.tokyo, address) == TOKYO
        assert await who_am_i(opened_before) == TOKYO


async def test_a_new_key_of_a_peer_replaces_the_old_one(zones: Zones) -> None:
    new_key = ZoneKey.generate()
    async with serving(zones.berlin) as address:
        zones.berlin.set_peers({**zones.peers, TOKYO: new_key.public})
        assert await refusal(zones.tokyo, address) is REFUSED_BY_TLS
        assert await connect(zones.client(TOKYO, new_key), address) == TOKYO
