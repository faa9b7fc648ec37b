"""The rule: an app is created only at its market's home, and nothing is taken from anybody but a record's home.

Held against whole zones: what a client asks in the wrong zone, what a peer asks with the wrong key, and what a home
says that lies.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from federation.head import PRIVATE, SealedHead
from federation.records import encode, new_record
from federation.tree import Tree
from federation.trust import Identity, PublicKey, ZoneKey, anchor
from fedmarket.pb.fedmarket.v1 import app_pb2
from fedmarket.pb.fedmarket.v1.app_pb2 import App
from fedmarket.pb.fedmarket.v1.common_pb2 import SCOPE_ZONE
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_STATE_FAILED
from fedmarket.pb.fedmarket.v1.market_pb2 import Market
from fedmarket.pb.fedmarket.v1.peer_pb2 import FromSink, FromSource, Hello, LocateRequest, LocateResponse, Source, Want
from fedmarket.pb.fedmarket.v1.peer_pb2_grpc import PeerServiceStub
from fedmarket.pb.fedmarket.v1.record_pb2 import APP_STATE_READY, APP_TYPE_IMAGE, IMAGE_STATE_ERROR, AppRecord
from fedmarket.pb.fedmarket.v1.zone_pb2 import (
    LINK_STATE_DIFF,
    LINK_STATE_DOWN,
    LINK_STATE_FORKED,
    LINK_STATE_REFUSED,
    LINK_STATE_TAIL,
    Link,
    LinkState,
)
from tests.support.hostile_home import HostileHome, market
from tests.support.native import SECONDS, ref, refused, trailers
from tests.support.web import web_server
from tests.support.zones import Pair, Zone, Zones, until, yard

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
    return [kept for zone in (pair.berlin, pair.tokyo) for kept in (zone.dump(), zone.files())]


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


def test_deleting_what_another_zone_owns_is_refused_and_writes_nothing(scene: Scene) -> None:
    pair = scene.pair
    before = kept(pair)
    deletes: list[tuple[Callable[[int], None], int]] = [
        (pair.tokyo.native.delete_app, scene.app.id),
        (pair.tokyo.native.delete_market, scene.market.id),
    ]
    for delete, which in deletes:
        with refused(*NOT_HOME) as seen:
            delete(which)
        assert trailers(seen[0])["fedmarket-home-endpoint"] == f"127.0.0.1:{pair.berlin.grpc}"
    assert kept(pair) == before


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


# -- what a home says that lies


@dataclass(frozen=True)
class Lie:
    """Something that a zone's home says with the zone's own key, and what berlin makes of it."""

    zone: int
    says: Callable[[HostileHome], FromSource]
    ends: LinkState.ValueType
    about: str
    """Part of the reason that the status shows."""


def stranger(home: HostileHome, tree: Tree) -> SealedHead:
    """Return the next head as somebody else signs it, under the zone's own key id."""
    honest, other = home.next_head(tree), ZoneKey.generate()
    signed = type(honest.signed)(
        body=honest.signed.body,
        key_id=home.key.public.key_id,
        sig=other.sign(b"fedmarket/head/1\0" + honest.signed.body),
    )
    return SealedHead(honest.head, signed, honest.hash)


def with_key(record_key: str) -> Callable[[HostileHome], FromSource]:
    return lambda home: home.commit({record_key.format(base=home.zone * 1_000_000): market("forged")})


def under(make: Callable[[HostileHome, Tree], SealedHead]) -> Callable[[HostileHome], FromSource]:
    """A commit of one proper record under a head that is not proper."""

    def say(home: HostileHome) -> FromSource:
        puts = {f"market/{home.zone * 1_000_000 + 100}": market("forged")}
        return home.commit(puts, head=make(home, home.tree.apply(puts)))

    return say


def key_id_of_another(home: HostileHome, tree: Tree) -> SealedHead:
    other = HostileHome.__new__(HostileHome)
    other.key, other.head = ZoneKey.generate(), home.head
    return other.next_head(tree)


REFUSED, DOWN = LINK_STATE_REFUSED, LINK_STATE_DOWN
LIES = {
    "a record of berlin": Lie(100, with_key("market/100"), REFUSED, "'market/100' is outside the range of zone 100"),
    "a record of a third zone": Lie(101, with_key("app/7000100"), REFUSED, "outside the range of zone 101"),
    "another zone's record of itself": Lie(102, with_key("zone/0"), REFUSED, "'zone/0' is outside the range"),
    "a key that is no key": Lie(103, with_key("market/{base}/../../head"), REFUSED, "is not a record key"),
    "a key named head": Lie(104, with_key("head/{base}"), REFUSED, "is not a record key"),
    "a key named lost": Lie(105, with_key("lost/{base}"), REFUSED, "is not a record key"),
    "an id that is not canonical": Lie(106, with_key("market/0{base}"), REFUSED, "is not a record key"),
    "a head by a key that is not pinned": Lie(107, under(key_id_of_another), REFUSED, "is signed by key"),
    "a head with a signature by another key": Lie(108, under(stranger), REFUSED, "signature does not verify"),
    "a head of another zone": Lie(
        109, under(lambda home, tree: home.next_head(tree, zone=0)), REFUSED, "the head is of zone 0"
    ),
    "the head of a private catalog": Lie(
        110, under(lambda home, tree: home.next_head(tree, catalog=PRIVATE)), REFUSED, "the head is of zone 110"
    ),
    "two heads of one number": Lie(
        111, under(lambda home, tree: home.next_head(tree, seq=1)), LINK_STATE_FORKED, "two different heads"
    ),
    "an older head": Lie(
        112, lambda home: home.beat(home.next_head(home.tree, epoch=0, seq=9)), DOWN, "older than (1, 1)"
    ),
    "a record over the limit": Lie(
        113, lambda home: home.commit({"market/113000100": bytes(257 << 10)}), REFUSED, "over 262144 bytes"
    ),
    "more records than a commit may have": Lie(
        114,
        lambda home: home.commit({f"market/{114_000_100 + n}": market(str(n)) for n in range(100)}),
        REFUSED,
        "over the limits",
    ),
    "the deletion of another zone's record": Lie(
        115, lambda home: home.commit({}, deletes=("market/100",)), REFUSED, "outside the range of zone 115"
    ),
}


@pytest.fixture(scope="module")
def lied_to(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Zone, dict[int, HostileHome]]]:
    """Berlin, which follows a home of each kind that lies, and holds the honest beginning of each."""
    with yard(tmp_path_factory.mktemp("lied-to")) as zones, ExitStack() as running:
        berlin = zones.make(0, "berlin")
        homes = {
            lie.zone: running.enter_context(HostileHome(lie.zone, ZoneKey.generate(), berlin)) for lie in LIES.values()
        }
        berlin.start()
        berlin.native.create_market("honest")
        yield berlin, homes


def link_to(zone: Zone, peer: int) -> Link:
    return next(link for link in zone.native.status().links if link.zone_id == peer)


def replica(zone: Zone, peer: int) -> dict[str, tuple[bytes, int]]:
    return zone.dump(f"zone/{zone.id}/replica/{peer}/")


@pytest.mark.parametrize("told", LIES)
def test_a_home_that_tells(lied_to: tuple[Zone, dict[int, HostileHome]], told: str) -> None:
    berlin, homes = lied_to
    lie = LIES[told]
    home = homes[lie.zone]
    until(lambda: link_to(berlin, lie.zone).state == LINK_STATE_TAIL, f"berlin follows {lie.zone}")
    before, own = replica(berlin, lie.zone), berlin.dump("catalog/0/")
    assert list(before) == [f"/fedmarket/1/zone/0/replica/{lie.zone}/zone/{lie.zone}"]
    home.say(lie.says(home))
    link = until(
        lambda: seen if lie.about in (seen := link_to(berlin, lie.zone)).last_error else None,
        f"the status says {lie.about!r}, and not {link_to(berlin, lie.zone)}",
    )
    if lie.ends is not DOWN:  # from which a link comes back by itself
        assert link.state == lie.ends
    assert (link.here.epoch, link.here.seq) == (1, 1)
    assert replica(berlin, lie.zone) == before
    assert berlin.dump("catalog/0/") == own
    assert f"liar-{lie.zone}" in link.name


def test_a_root_that_does_not_hold_its_records_is_asked_for_again_and_not_stored(zones: Zones) -> None:
    """What does not follow leads to a DIFF, which here never ends: the home does not know what it signed."""
    berlin = zones.make(0, "berlin")
    with HostileHome(100, ZoneKey.generate(), berlin) as home:
        berlin.start()
        until(lambda: link_to(berlin, 100).state == LINK_STATE_TAIL, "berlin follows")
        before = replica(berlin, 100)
        home.say(home.commit({"market/100000100": market("forged")}, head=home.next_head(home.tree)))
        until(lambda: link_to(berlin, 100).state == LINK_STATE_DIFF, "berlin asks for what differs")
        assert replica(berlin, 100) == before


# -- what a home offers that is not what its catalog says

CONTENT = b"what the catalog names" * 1000
APP, MARKET = 100_000_100, 100_000_101


def offered(market_id: int = MARKET) -> dict[str, bytes]:
    """The records of a market and an app of zone 100."""
    app = AppRecord(
        name="offered",
        market_id=market_id,
        state=APP_STATE_READY,
        type=APP_TYPE_IMAGE,
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).digest(),
        md5=hashlib.md5(CONTENT).digest(),
        format="raw",
    )
    return {f"app/{APP}": encode(new_record(app)), f"market/{MARKET}": market("hostile")}


@pytest.mark.parametrize(
    ("served", "digest", "about"),
    [
        pytest.param(CONTENT[:-1] + b"?", CONTENT, "SHA-256", id="other-bytes"),
        pytest.param(CONTENT[:-1], CONTENT, "bytes", id="fewer-bytes"),
        pytest.param(CONTENT + b"more", CONTENT, "bytes", id="more-bytes"),
        pytest.param(b"other", b"other", "offers other bytes", id="another-blob-than-the-catalog-names"),
        pytest.param(None, CONTENT, "127.0.0.1", id="nothing"),
    ],
)
def test_bytes_that_are_not_those_of_the_record_are_not_kept(
    zones: Zones, tmp_path: Path, served: bytes | None, digest: bytes, about: str
) -> None:
    berlin = zones.make(0, "berlin")
    web = tmp_path / "web"
    web.mkdir()
    if served is not None:
        (web / "blob").write_bytes(served)
    with web_server(web) as url, HostileHome(100, ZoneKey.generate(), berlin, offered()) as home:
        home.located = LocateResponse(
            sources=[Source(url="file:///etc/passwd"), Source(url=f"{url}/blob")],
            size_bytes=len(digest),
            sha256=hashlib.sha256(digest).digest(),
        )
        berlin.start()
        until(lambda: berlin.native.app_names() == ["offered"], "berlin sees the app")
        begun = berlin.native.begin_export("offered", "brought")
        ended = berlin.native.wait(begun.job_id)
        assert ended.state == JOB_STATE_FAILED
        assert about in ended.error
        image = berlin.native.image("brought")
        assert (image.state, image.error) == (IMAGE_STATE_ERROR, ended.error)
        assert berlin.files() == []


def test_an_app_of_another_zone_cannot_put_itself_into_a_market_of_ours(zones: Zones) -> None:
    """Its record is in its own zone's range, and signed: only what it says of its market is a lie."""
    berlin = zones.make(0, "berlin")
    berlin.start()
    ours = berlin.native.create_market("ours")
    berlin.terminate()
    with HostileHome(100, ZoneKey.generate(), berlin, offered(market_id=ours.id)):
        berlin.start()
        until(lambda: berlin.native.app_names() == ["offered"], "berlin sees the app")
        of_ours = app_pb2.ListAppsRequest(market=ref(ours.id))
        assert [app.name for app in berlin.native.call(berlin.native.apps.List, of_ours).apps] == []
        assert berlin.native.market(ours.id).app_count == 0
        assert berlin.native.app("offered").market == ""
