"""The rule at the link: of what a peer says, a zone keeps only what that peer's own key has signed of its own.

A real agent follows homes that lie with their zone's real key, and fetches bytes that are not what a catalog names.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from federation.head import PRIVATE, SealedHead
from federation.records import encode, new_record
from federation.tree import Tree
from federation.trust import ZoneKey
from fedmarket.pb.fedmarket.v1 import app_pb2
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_STATE_FAILED
from fedmarket.pb.fedmarket.v1.peer_pb2 import FromSource, LocateResponse, Source
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
from tests.support.native import ref
from tests.support.web import web_server
from tests.support.zones import Zone, Zones, until, yard

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
