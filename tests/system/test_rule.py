"""The rule: an app is created only at its market's home, and a peer is told only what its own key may ask for.

Held against whole zones: what a client asks in the wrong zone, and what a peer asks with the wrong key.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from federation.trust import Identity, PublicKey, ZoneKey, anchor
from fedmarket.pb.fedmarket.v1.app_pb2 import App
from fedmarket.pb.fedmarket.v1.common_pb2 import SCOPE_ZONE
from fedmarket.pb.fedmarket.v1.market_pb2 import Market
from fedmarket.pb.fedmarket.v1.peer_pb2 import FromSink, FromSource, Hello, LocateRequest, Want
from fedmarket.pb.fedmarket.v1.peer_pb2_grpc import PeerServiceStub
from tests.support.native import SECONDS, refused, trailers
from tests.support.zones import Pair, Zone, until, yard

LIMA = 7
"""A zone that berlin has pinned and that never runs."""
NOT_HOME = (grpc.StatusCode.FAILED_PRECONDITION, "not-home")
DENIED = grpc.StatusCode.PERMISSION_DENIED


# -- what a client asks in the wrong zone


@dataclass(frozen=True)
class Scene:
    """Berlin has a market with an app; tokyo sees both, and has an image."""

    pair: Pair
    market: Market
    app: App


@pytest.fixture(scope="module")
def scene(pair: Pair) -> Scene:
    image = pair.berlin.native.import_image("ours", b"berlin's bytes")
    made = pair.berlin.native.create_market("berlin-market")
    app = pair.berlin.native.create_app("berlin-app", image.id, made.id)
    pair.tokyo.native.import_image("theirs", b"tokyo's bytes")
    until(lambda: "berlin-app" in pair.tokyo.native.app_names(), "tokyo sees berlin's app")
    pair.wait_equal()
    return Scene(pair, made, app)


def kept(pair: Pair) -> list[object]:
    """Everything that both zones keep, in etcd and in files."""
    return [zone.kept() for zone in (pair.berlin, pair.tokyo)]


def test_creating_an_app_in_the_market_of_another_zone_is_refused_and_writes_nothing(scene: Scene) -> None:
    pair = scene.pair
    before = kept(pair)
    for market_ref in (scene.market.id, "berlin-market", "berlin-market@berlin", "berlin-market@0"):
        with refused(*NOT_HOME) as seen:
            pair.tokyo.native.begin_app("intruder", "theirs", market_ref)
        said = trailers(seen[0])
        assert said["fedmarket-home-zone"] == "0"
        assert said["fedmarket-home-endpoint"] == f"127.0.0.1:{pair.berlin.grpc}"
        assert "berlin" in str(seen[0].details())
        assert "migration" in str(seen[0].details())
    assert kept(pair) == before


def test_the_refusal_does_not_depend_on_an_image_that_could_be_read(scene: Scene) -> None:
    """The rule comes first: before the image is looked up, and before the name is."""
    before = kept(scene.pair)
    for name in ("intruder", "berlin-app", "no/name"):
        with refused(*NOT_HOME):
            scene.pair.tokyo.native.begin_app(name, "no such image", "berlin-market")
    assert kept(scene.pair) == before


def test_what_another_zone_owns_is_changed_by_its_home_alone(scene: Scene) -> None:
    """Tokyo's agent writes nothing but what it follows: neither in its own catalog, nor of the record itself."""
    pair = scene.pair
    market = pair.berlin.native.create_market("short-lived")
    pair.wait_equal()
    tokyo = pair.tokyo.dump("catalog/"), pair.tokyo.dump("zone/100/private/"), pair.tokyo.files()

    pair.tokyo.native.delete_market(market.id)

    assert f"/fedmarket/1/catalog/0/market/{market.id}" not in pair.berlin.dump("catalog/")
    assert (pair.tokyo.dump("catalog/"), pair.tokyo.dump("zone/100/private/"), pair.tokyo.files()) == tokyo


# -- what a peer asks with the wrong key


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zone]:
    """Berlin, which has pinned tokyo and lima; neither runs: the tests are they."""
    with yard(tmp_path_factory.mktemp("watched")) as zones:
        berlin, tokyo = zones.make(0, "berlin"), zones.make(100, "tokyo")
        berlin.follow(tokyo.id, tokyo.peer, tokyo.key)
        berlin.follow(LIMA, tokyo.peer, str(ZoneKey.generate().public))
        berlin.start()
        yield berlin


def tokyo_key(berlin: Zone) -> ZoneKey:
    return ZoneKey.load(berlin.directory.parent / "tokyo" / "keys" / "zone.key")


@contextmanager
def dialled(berlin: Zone, identity: Identity) -> Iterator[PeerServiceStub]:
    made = identity.channel_credentials(berlin.id)
    with grpc.secure_channel(f"127.0.0.1:{berlin.peer}", made.credentials, made.options) as channel:
        yield PeerServiceStub(channel)


def as_zone(berlin: Zone, zone: int, key: ZoneKey) -> Identity:
    return Identity(zone, key, {berlin.id: PublicKey.parse(berlin.key)})


def follow(stub: PeerServiceStub, *messages: FromSink) -> list[FromSource]:
    """Send these messages and return what is answered until the stream ends."""
    return list(stub.Follow(iter(messages), timeout=SECONDS))


def hello(zone: int, **rest: object) -> FromSink:
    return FromSink(hello=Hello(**{"zone": zone, "protocol_min": 1, "protocol_max": 1} | rest))  # type: ignore[arg-type]  # a keyword at a time


def test_a_peer_that_says_it_is_who_its_certificate_says_is_served(watched: Zone) -> None:
    with dialled(watched, as_zone(watched, 100, tokyo_key(watched))) as stub:
        stream = stub.Follow(iter([hello(100)]), timeout=SECONDS)
        assert next(stream).welcome.protocol == 1
        stream.cancel()


@pytest.mark.parametrize(
    ("messages", "answer"),
    [
        pytest.param([hello(0)], "zone", id="another-zone"),
        pytest.param([hello(LIMA)], "zone", id="another-peer"),
        pytest.param([hello(100, protocol_min=2, protocol_max=9)], "protocol", id="a-newer-protocol"),
        pytest.param([FromSink()], "protocol", id="nothing"),
        pytest.param([FromSink(want=Want(bucket=0))], "protocol", id="a-want-first"),
    ],
)
def test_a_hello_that_does_not_hold_is_refused(watched: Zone, messages: list[FromSink], answer: str) -> None:
    with dialled(watched, as_zone(watched, 100, tokyo_key(watched))) as stub:
        (only,) = follow(stub, *messages)
    assert only.refuse.code == answer
    assert only.refuse.text


def test_a_key_that_berlin_has_not_pinned_gets_no_connection(watched: Zone) -> None:
    for zone in (100, LIMA, 8):
        unknown = as_zone(watched, zone, ZoneKey.generate())
        with dialled(watched, unknown) as stub, refused(grpc.StatusCode.UNAVAILABLE):
            stub.Locate(LocateRequest(app_id=100), timeout=SECONDS)


def test_a_client_without_a_certificate_gets_no_connection(watched: Zone) -> None:
    trusted = grpc.ssl_channel_credentials(anchor(PublicKey.parse(watched.key), watched.id))
    options = [("grpc.ssl_target_name_override", f"zone-{watched.id}.fedmarket")]
    with (
        grpc.secure_channel(f"127.0.0.1:{watched.peer}", trusted, options) as channel,
        refused(grpc.StatusCode.UNAVAILABLE),
    ):
        PeerServiceStub(channel).Locate(LocateRequest(app_id=100), timeout=SECONDS)


def test_a_certificate_by_a_pinned_key_that_names_another_pinned_zone_is_denied(watched: Zone) -> None:
    """TLS lets it in, since the key is one of those trusted: the handler's own check is what refuses."""
    key = tokyo_key(watched)
    leaf = as_zone(watched, 100, key).issue_leaf()
    honest = x509.load_pem_x509_certificate(leaf.certificate)
    names = [x509.UniformResourceIdentifier(f"fedmarket://zone/{LIMA}"), x509.DNSName("zone-100.fedmarket")]
    forged = (
        x509.CertificateBuilder()
        .serial_number(honest.serial_number)
        .issuer_name(honest.issuer)
        .subject_name(honest.subject)
        .public_key(honest.public_key())
        .not_valid_before(honest.not_valid_before_utc)
        .not_valid_after(honest.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key.to_crypto(), algorithm=None)
    )
    credentials = grpc.ssl_channel_credentials(
        anchor(PublicKey.parse(watched.key), watched.id), leaf.private_key, forged.public_bytes(Encoding.PEM)
    )
    options = [("grpc.ssl_target_name_override", f"zone-{watched.id}.fedmarket")]
    with grpc.secure_channel(f"127.0.0.1:{watched.peer}", credentials, options) as channel:
        stub = PeerServiceStub(channel)
        with refused(DENIED, "denied"):
            stub.Locate(LocateRequest(app_id=100), timeout=SECONDS)
        with refused(DENIED, "denied"):
            follow(stub, hello(LIMA))


def test_locate_tells_of_a_federated_app_and_of_no_other(watched: Zone) -> None:
    native = watched.native
    image = native.import_image("located", b"bytes")
    open_market, private_market = native.create_market("open"), native.create_market("private", SCOPE_ZONE)
    open_app = native.create_app("open-app", image.id, open_market.id)
    private_app = native.create_app("private-app", image.id, private_market.id)
    with dialled(watched, as_zone(watched, 100, tokyo_key(watched))) as stub:
        found = stub.Locate(LocateRequest(app_id=open_app.id), timeout=SECONDS)
        assert (found.sha256.hex(), found.size_bytes) == (open_app.sha256, 5)
        assert [source.zone_id for source in found.sources] == [0]
        assert_read_by_its_url_only(found.sources[0].url, b"bytes")
        for unknown in (private_app.id, 100_000_100, 0, -1, open_app.id + 1000):
            with refused(grpc.StatusCode.NOT_FOUND, "not-found"):
                stub.Locate(LocateRequest(app_id=unknown), timeout=SECONDS)


def assert_read_by_its_url_only(url: str, content: bytes) -> None:
    """Read by ranges what a signed URL is for, and nothing by a URL that was changed."""
    with urlopen(Request(url, headers={"Range": "bytes=1-3"}), timeout=SECONDS) as answer:
        assert (answer.status, answer.read()) == (206, content[1:4])
    path, _, query = url.partition("?")
    for changed in (path, f"{path}x?{query}", f"{path}?{query[:-1]}", url.replace("expires=", "expires=9")):
        with pytest.raises(HTTPError) as caught:
            urlopen(changed, timeout=SECONDS)
        assert caught.value.code == 403
        caught.value.close()


def test_no_record_of_a_zone_scope_market_is_sent_to_a_peer(watched: Zone) -> None:
    watched.native.create_market("for-berlin-only", SCOPE_ZONE)
    watched.native.create_market("for-all")
    enough = threading.Event()

    def asks_for_everything() -> Iterator[FromSink]:
        yield hello(100)
        yield from (FromSink(want=Want(bucket=index)) for index in range(256))
        enough.wait(SECONDS)  # the end of the requests would end the stream

    with dialled(watched, as_zone(watched, 100, tokyo_key(watched))) as stub:
        stream = stub.Follow(asks_for_everything(), timeout=SECONDS)
        told, buckets = b"", 0
        while buckets < 256:
            message = next(stream)
            told += message.SerializeToString()
            buckets += message.bucket.last
        stream.cancel()
        enough.set()
    assert b"for-all" in told
    assert b"for-berlin-only" not in told
