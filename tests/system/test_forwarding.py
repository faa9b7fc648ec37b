"""Changes asked in tokyo of what is at home in berlin, while the way there, or berlin, fails in every way."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from federation.trust import Identity, PublicKey, ZoneKey
from fedmarket.pb.fedmarket.v1.change_pb2 import Change, ChangeResponse, Chmod, Delete, Rename, ResolveResponse, Verb
from fedmarket.pb.fedmarket.v1.change_pb2 import ResolveRequest as Resolve
from fedmarket.pb.fedmarket.v1.market_pb2 import ListMarketsRequest
from fedmarket.pb.fedmarket.v1.peer_pb2 import ForwardRequest, ForwardResponse, SettleRequest
from fedmarket.pb.fedmarket.v1.peer_pb2_grpc import PeerServiceStub
from fedmarket.pb.fedmarket.v1.record_pb2 import Owner
from tests.support.native import code, ref, trailers
from tests.support.newer import later
from tests.support.proxy import Proxy
from tests.support.zones import BOUND, Pair, Zone, until, yard

T = TypeVar("T")

FORWARD_SECONDS = 3.0
"""After which tokyo says that it does not know."""
DELETE = Verb(delete=Delete())
REFUSED, NO_ANSWER, UNKNOWN = 4, 6, 7
"""Exit statuses."""

_numbers = count()


def new_request() -> str:
    return f"request-of-the-test-{next(_numbers):04}"


def rename(name: str) -> Verb:
    return Verb(rename=Rename(name=name))


@dataclass(frozen=True)
class Forwarding(Pair):
    """Tokyo reaches berlin by a relay."""

    way: Proxy
    created: dict[int, int]
    """Market to how often its record was written until it was there: its space is measured too."""

    def market(self, name: str = "m") -> int:
        """Create a market in berlin that tokyo sees."""
        made = self.berlin.native.create_market(f"{name}-{next(_numbers)}").id
        until(lambda: made in seen_ids(self.tokyo), "tokyo sees the market")
        self.created[made] = self._written(made)
        return made

    def ask(self, market: int, verb: Verb, request: str = "") -> ChangeResponse:
        """Ask in tokyo for a change of a market."""
        return self.tokyo.native.change("market", market, verb, request)

    def resolve(self, request: str) -> ResolveResponse:
        """Ask in tokyo what became of a request to berlin, until that is definite."""
        native = self.tokyo.native

        def resolved() -> ResolveResponse | None:
            with suppress(grpc.RpcError):
                return native.call(native.changes.Resolve, Resolve(request_id=request, zone=ref(self.berlin.id)))
            return None

        return until(resolved, f"{request} is resolved", 2 * BOUND)

    def times(self, market: int) -> int:
        """Return how often a market of berlin was changed since it was created."""
        return self._written(market) - self.created[market]

    def _written(self, market: int) -> int:
        (stored,) = self.berlin.stored(f"catalog/0/market/{market}")
        return stored.version

    def heal(self) -> None:
        self.way.heal()
        self.wait_linked()

    def check_definite(self, market: int, verb: Verb, request: str) -> None:
        """Check that a request whose outcome is unknown becomes definite, is so at berlin, and stays so."""
        done = self.resolve(request).done
        assert self.times(market) == done
        for _ in range(2):
            if done:
                assert self.ask(market, verb, request).id == market
            else:
                assert failed(lambda: self.ask(market, verb, request)) == "cancelled"
            assert self.resolve(request).done == done
        self.wait_equal()
        assert self.times(market) == done


def seen_ids(zone: Zone) -> list[int]:
    """Return the ids of the markets that a zone sees."""
    return [market.id for market in zone.native.call(zone.native.markets.List, ListMarketsRequest()).markets]


def failed(call: Callable[[], object]) -> str:
    """Return with which of our codes a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return code(caught.value)


@contextmanager
def meanwhile(work: Callable[[], T]) -> Iterator["Future[T]"]:
    """Do something beside the test, which takes what came of it."""
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(work)


@pytest.fixture(scope="module")
def zones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forwarding]:
    """Berlin and tokyo. Leave both running, linked and healed."""
    with yard(tmp_path_factory.mktemp("forwarding")) as made:
        berlin, tokyo = made.make(0, "berlin"), made.make(100, "tokyo")
        with Proxy(berlin.peer) as way:
            berlin.follow(tokyo.id, tokyo.peer, tokyo.key)
            tokyo.follow(berlin.id, way.port, berlin.key)
            for zone in (berlin, tokyo):
                zone.set(
                    "timeouts",
                    forward_seconds=FORWARD_SECONDS,
                    beat_seconds=0.5,
                    beats_missed=4,
                    connect_seconds=1.0,
                    peer_call_seconds=1.0,
                    backoff_max_seconds=0.5,
                    monitor_seconds=3600.0,  # which changes markets too
                )
            pair = Forwarding(berlin, tokyo, way, {})
            pair.start()
            yield pair


# -- done, and refused


def test_a_change_of_another_zones_record_is_done_and_at_once_visible_where_it_was_asked(zones: Forwarding) -> None:
    market = zones.market()
    for n in range(5):
        changed = zones.ask(market, rename(f"renamed-{market}-{n}"))
        assert (changed.id, changed.zone_id, changed.visible) == (market, 0, True)
        assert zones.tokyo.native.market(market).name == f"renamed-{market}-{n}"
    assert zones.times(market) == 5
    zones.ask(market, DELETE)
    assert market not in seen_ids(zones.tokyo)
    assert zones.berlin.stored(f"catalog/0/market/{market}") == []


def test_a_refusal_is_berlins_own_and_names_the_true_cause(zones: Forwarding) -> None:
    market, taken = zones.market(), zones.market("taken")
    image = zones.berlin.native.import_image(f"i{market}", b"x")
    zones.berlin.native.create_app(f"a{market}", image.id, market)
    name = zones.berlin.native.market(taken).name
    refusals: dict[str, tuple[Verb, str]] = {
        "still holds 1 app": (DELETE, "refused"),
        f"{name!r} is taken": (rename(name), "already-exists"),
        "bits beyond": (Verb(chmod=Chmod(set=0o7777)), "bad-input"),
    }
    before = zones.times(market)
    for said, (verb, cause) in refusals.items():
        with pytest.raises(grpc.RpcError) as here:
            zones.ask(market, verb)
        with pytest.raises(grpc.RpcError) as there:
            zones.berlin.native.change("market", market, verb)
        assert (code(here.value), said in str(here.value)) == (cause, True), here.value
        assert code(there.value) == cause
    assert zones.times(market) == before
    assert "still holds" in zones.tokyo.fails(REFUSED, "market", "delete", str(market))


def test_a_refusal_stays_though_its_reason_has_gone(zones: Forwarding) -> None:
    market, request = zones.market(), new_request()
    image = zones.berlin.native.import_image(f"i{market}", b"x")
    app = zones.berlin.native.create_app(f"a{market}", image.id, market)
    assert failed(lambda: zones.ask(market, DELETE, request)) == "refused"
    zones.berlin.native.delete_app(app.id)
    assert failed(lambda: zones.ask(market, DELETE, request)) == "refused"
    assert not zones.resolve(request).done
    zones.ask(market, DELETE, new_request())


def test_a_request_id_is_for_one_change(zones: Forwarding) -> None:
    market, other, request = zones.market(), zones.market(), new_request()
    for _ in range(3):
        assert zones.ask(market, rename(f"once-{market}"), request).id == market
    assert zones.times(market) == 1
    assert failed(lambda: zones.ask(market, rename(f"twice-{market}"), request)) == "bad-input"
    assert failed(lambda: zones.ask(other, rename(f"once-{market}"), request)) == "bad-input"
    assert (zones.times(market), zones.times(other)) == (1, 0)


def test_asking_what_became_of_what_was_never_asked_bars_it(zones: Forwarding) -> None:
    market, request = zones.market(), new_request()
    assert not zones.resolve(request).done
    assert failed(lambda: zones.ask(market, DELETE, request)) == "cancelled"
    assert zones.times(market) == 0


# -- the way


def test_a_zone_that_cannot_be_reached_is_named_and_nothing_is_applied_later(zones: Forwarding) -> None:
    market = zones.market()
    zones.way.cut()
    told = until(lambda: refused_before_sending(zones, market), "tokyo sees that berlin is away")
    assert "berlin (0)" in told
    assert "berlin (0)" in zones.tokyo.fails(NO_ANSWER, "market", "delete", str(market))
    zones.heal()
    zones.wait_equal()
    assert zones.times(market) == 0


def refused_before_sending(zones: Forwarding, market: int) -> str:
    """Return why a change was not sent; empty if it was."""
    with pytest.raises(grpc.RpcError) as refusal:
        zones.ask(market, rename(f"never-{market}"))
    return str(refusal.value) if code(refusal.value) == "unavailable" else ""


def test_an_answer_that_is_lost_makes_the_change_unknown_and_asking_again_makes_no_second_one(
    zones: Forwarding,
) -> None:
    market, request = zones.market(), new_request()
    name = f"lost-{market}"
    zones.way.mute()
    begun = time.monotonic()
    with pytest.raises(grpc.RpcError) as unknown:
        zones.ask(market, rename(name), request)
    assert time.monotonic() - begun < BOUND
    assert code(unknown.value) == "unknown"
    assert request in str(unknown.value)
    assert trailers(unknown.value)["fedmarket-request-id"] == request
    until(lambda: zones.times(market) == 1, "berlin has made the change")
    zones.heal()
    assert zones.ask(market, rename(name), request).id == market
    assert zones.resolve(request).done
    assert zones.times(market) == 1
    assert zones.tokyo.native.market(market).name == name


def test_a_request_that_is_delayed_is_made_once_or_never(zones: Forwarding) -> None:
    market, request = zones.market(), new_request()
    verb = rename(f"late-{market}")
    zones.way.stall()
    assert failed(lambda: zones.ask(market, verb, request)) in {"unknown", "unavailable"}
    zones.heal()  # and what was held back comes late
    zones.check_definite(market, verb, request)


def test_a_request_that_was_cut_off_on_its_way_is_made_definite_by_resolving_it(zones: Forwarding) -> None:
    market, request = zones.market(), new_request()
    verb = rename(f"cut-{market}")
    zones.way.stall()
    assert failed(lambda: zones.ask(market, verb, request)) in {"unknown", "unavailable"}
    native = zones.tokyo.native
    resolve = Resolve(request_id=request, zone=ref(0))
    assert failed(lambda: native.call(native.changes.Resolve, resolve)) in {"unknown", "unavailable"}
    done = zones.tokyo.cli("request", "resolve", request, "--zone", "berlin")
    assert done.status in {NO_ANSWER, UNKNOWN}, done
    zones.way.cut()
    zones.heal()
    zones.check_definite(market, verb, request)


def test_a_connection_that_breaks_again_and_again_makes_each_change_once_or_never(zones: Forwarding) -> None:
    for n in range(4):
        market, request = zones.market(), new_request()
        verb = rename(f"broken-{market}")
        with meanwhile(lambda: outcome_of(zones, market, verb, request)) as asked:  # noqa: B023 -- it ends here
            time.sleep(0.003 * n)  # not to wait for anything: to cut at different moments
            zones.way.cut()
            zones.way.heal()
            told = asked.result(2 * BOUND)
        zones.wait_linked()
        if told == "done":
            assert zones.times(market) == 1
        zones.check_definite(market, verb, request)


def outcome_of(zones: Forwarding, market: int, verb: Verb, request: str) -> str:
    try:
        zones.ask(market, verb, request)
    except grpc.RpcError as error:
        return code(error)
    return "done"


# -- berlin


def test_a_home_whose_etcd_hangs_leaves_nothing_hanging_and_the_change_is_made_once_or_never(
    zones: Forwarding,
) -> None:
    market, request = zones.market(), new_request()
    verb = rename(f"frozen-{market}")
    etcd = zones.berlin.etcd_pid
    os.kill(etcd, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert failed(lambda: zones.ask(market, verb, request)) == "unknown"
        assert time.monotonic() - begun < BOUND
    finally:
        os.kill(etcd, signal.SIGCONT)
    zones.check_definite(market, verb, request)


@pytest.mark.parametrize("after", [0.0, 0.01, 0.1])
def test_a_home_that_is_killed_in_the_middle_has_made_the_change_once_or_never(zones: Forwarding, after: float) -> None:
    market, request = zones.market(), new_request()
    verb = rename(f"killed-{market}")
    with meanwhile(lambda: outcome_of(zones, market, verb, request)) as asked:
        time.sleep(after)  # not to wait for anything: to kill at different moments
        zones.berlin.kill()
        told = asked.result(2 * BOUND)
    assert told in {"done", "unknown", "unavailable"}
    zones.berlin.start()
    zones.wait_linked()
    zones.check_definite(market, verb, request)


def test_a_delete_that_cannot_be_completed_is_not_answered_with_success(zones: Forwarding) -> None:
    berlin, request = zones.berlin, new_request()
    market = zones.market("full")
    image = berlin.native.import_image(f"i{market}", b"x")
    app = berlin.native.create_app(f"a{market}", image.id, market)
    until(lambda: app.name in zones.tokyo.native.app_names(), "tokyo sees the app")
    directory = berlin.directory / "markets" / str(market)
    away = directory.rename(directory.with_suffix(".away"))
    directory.touch()  # where the bytes lay is no directory any more
    try:
        with pytest.raises(grpc.RpcError) as refusal:
            zones.tokyo.native.change("app", app.id, DELETE, request)
        assert code(refusal.value) not in {"", "internal"}
        assert app.name in berlin.native.app_names(), "it is still there"
        assert berlin.native.app(app.id).error
    finally:
        directory.unlink()
        away.rename(directory)
    zones.tokyo.native.change("app", app.id, DELETE, new_request())
    assert app.name not in zones.tokyo.native.app_names()
    assert not [name for name in berlin.files(of=("markets",)) if f"/{market}/" in name]


# -- whom berlin believes


@contextmanager
def dialled(berlin: Zone, key: ZoneKey, zone: int = 100) -> Iterator[PeerServiceStub]:
    """Open a channel to berlin's peer port, as a zone."""
    credentials = Identity(zone, key, {berlin.id: PublicKey.parse(berlin.key)}).channel_credentials(berlin.id)
    options: list[tuple[str, Any]] = [*credentials.options, ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"127.0.0.1:{berlin.peer}", credentials.credentials, options) as channel:
        yield PeerServiceStub(channel)


def key_of(zone: Zone) -> ZoneKey:
    return ZoneKey.load(Path(zone.directory) / "keys" / "zone.key")


def asked(market: int, verb: Verb = DELETE, *, of: int = 100, kind: str = "market", uid: bytes = b"") -> ForwardRequest:
    """Return a change as a user of a zone asks for it."""
    change = Change(kind=kind, id=market, verb=verb, uid=uid)
    return ForwardRequest(request_id=new_request(), principal=Owner(zone=of), change=change)


def test_a_zone_speaks_only_for_its_own_users_and_only_of_what_is_shared(zones: Forwarding) -> None:
    berlin = zones.berlin
    market = zones.market("guarded")
    image = berlin.native.import_image(f"i{market}", b"x")
    archive = Verb.FromString(later("Verb")(archive={}).SerializeToString())
    refused: dict[str, tuple[ForwardRequest, str]] = {
        "berlin's own administrator": (asked(market, of=0), "denied"),
        "a user of a third zone": (asked(market, of=7), "denied"),
        "a record of the caller's": (asked(100_000_100), "not-found"),
        "a record of a third zone": (asked(7_000_100), "not-found"),
        "a private market": (asked(500_000), "not-found"),
        "an image": (asked(image.id, kind="image"), "not-found"),
        "the zone itself": (asked(0, kind="zone"), "bad-input"),
        "another thing of that id": (asked(market, uid=b"another"), "not-found"),
        "nothing": (asked(market, Verb()), "bad-input"),
        "a verb of a later version": (asked(market, archive), "bad-input"),
        "an id that is none": (ForwardRequest(request_id="x", principal=Owner(zone=100)), "bad-input"),
    }
    before = berlin.dump("catalog/")
    with dialled(berlin, key_of(zones.tokyo)) as tokyo:
        told = {
            what: tokyo.Forward(request, timeout=BOUND).refusal.code or "made" for what, (request, _) in refused.items()
        }
        assert told == {what: cause for what, (_, cause) in refused.items()}
    assert berlin.dump("catalog/") == before


@pytest.mark.parametrize("zone", [100, 7])
def test_whoever_has_not_the_key_of_a_peer_is_not_heard(zones: Forwarding, zone: int) -> None:
    market = zones.market("guarded")
    with dialled(zones.berlin, ZoneKey.generate(), zone) as stranger:
        calls: list[Callable[[], object]] = [
            lambda: stranger.Forward(asked(market, of=zone), timeout=BOUND),
            lambda: stranger.Settle(SettleRequest(request_id=new_request()), timeout=BOUND),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as refusal:
                call()
            assert refusal.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED}
    assert zones.times(market) == 0


def test_a_zone_can_neither_ask_for_nor_settle_anothers_request(zones: Forwarding) -> None:
    """A request is named by the zone of whoever asked: berlin's own of the same id is another one."""
    market, request = zones.market("two"), new_request()
    zones.berlin.native.change("market", market, rename(f"by-berlin-{market}"), request)
    with dialled(zones.berlin, key_of(zones.tokyo)) as tokyo:
        settled: ForwardResponse = tokyo.Settle(SettleRequest(request_id=request), timeout=BOUND)
    assert settled.WhichOneof("outcome") == "refusal"
    assert zones.times(market) == 1
