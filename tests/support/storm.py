"""Faults of real zones under load, one zone at a time, and what must hold meanwhile and after."""

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

import grpc

from fedmarket.pb.etcd import rpc_pb2, rpc_pb2_grpc
from fedmarket.pb.fedmarket.v1.app_pb2 import ListAppsRequest
from fedmarket.pb.fedmarket.v1.record_pb2 import APP_STATE_READY
from tests.support.ledger import Ledger, read_copy
from tests.support.users import DEADLINE, IMAGE, Hits, Observer, Probe, Trader, User, market_of
from tests.support.zones import Pair, Zone, follows, link, until

CONTENT = b"a tiny image"
COMPACT = 1.0
RECOVERY = 90.0
"""Seconds within which a zone must work again, and hold the same as the other."""


class Compactor:
    """Throws away the history of a zone's etcd every second."""

    def __init__(self, zone: Zone, stop: threading.Event) -> None:
        self._zone = zone
        self._stop = stop
        self.done = 0

    def run(self) -> None:
        while not self._stop.wait(COMPACT):
            with suppress(grpc.RpcError), self._zone.etcd() as channel:  # of an etcd that is down
                kv = rpc_pb2_grpc.KVStub(channel)
                now = kv.Range(rpc_pb2.RangeRequest(key=b"/"), timeout=DEADLINE).header.revision
                kv.Compact(rpc_pb2.CompactionRequest(revision=now), timeout=DEADLINE)
                self.done += 1


class Storm:
    """Load on two zones, and looks at them, while the context is open."""

    def __init__(self, pair: Pair, *, traders: int, pause: float, compact: bool = False) -> None:
        self.pair = pair
        self._stop = threading.Event()
        self._ledgers = {zone: Ledger() for zone in (pair.berlin, pair.tokyo)}
        self._hits = {zone: Hits() for zone in self._ledgers}
        self._probes: dict[Zone, Probe] = {}
        self._users: list[User] = []
        self._compactors: list[Compactor] = []
        uids: dict[str, str] = {}
        for zone, ledger in self._ledgers.items():
            hits = self._hits[zone]
            zone.native.import_image(IMAGE, CONTENT)
            self.create_market(zone, market_of(zone))
            self._probes[zone] = Probe(zone, "probe", ledger, hits, self._stop)
            self._users += [Trader(zone, f"trader{n}", ledger, hits, self._stop, pause) for n in range(traders)]
            self._users += [self._probes[zone], Observer(zone, self._ledgers, hits, self._stop, uids)]
            self._compactors += [Compactor(zone, self._stop)] if compact else []
        self._threads = ThreadPoolExecutor(len(self._users) + len(self._compactors))
        self._running: list[Future[None]] = []

    def __enter__(self) -> "Storm":
        work = [user.run for user in self._users] + [compactor.run for compactor in self._compactors]
        self._running = [self._threads.submit(run) for run in work]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._stop.set()
        self._threads.shutdown()
        for user in self._users:
            user.close()

    @property
    def acknowledged(self) -> int:
        """Creates and deletes of apps, in both zones."""
        return sum(ledger.acknowledged for ledger in self._ledgers.values())

    def create_market(self, zone: Zone, name: str) -> None:
        """Create a market that must stay."""
        self._ledgers[zone].tried.add(name)
        made = zone.native.create_market(name)
        self._ledgers[zone].promised[f"market/{made.id}"] = name

    def rage(self, seconds: float) -> None:
        """Let time pass under load. Raises what a user or an observer has raised."""
        self._stop.wait(seconds)
        for each in self._running:
            if each.done():
                each.result()

    @contextmanager
    def hits(self, zone: Zone) -> Iterator[None]:
        """Begin and end a fault of one zone in the body: the other goes on working, and this one works after it."""
        (other,) = (each for each in self._probes if each is not zone)
        with self._hits[zone].span():
            there = self._probes[other].done
            yield
            until(lambda: self._probes[other].done > there, f"{other.name} works while {zone.name} is hit")
            here = self._probes[zone].done
            until(lambda: self._probes[zone].done > here, f"{zone.name} works again", RECOVERY)
        self.rage(0)

    def settle(self) -> None:
        """End the load; wait until both zones hold the same, and check that it is what users were told."""
        self._stop.set()
        for each in self._running:
            each.result()
        complaints = [complaint for user in self._users for complaint in user.complaints]
        print(f"{self.acknowledged} creates and deletes of apps were acknowledged")
        assert not complaints, "\n".join(["what failed though its zone was not hit:", *complaints])
        assert all(compactor.done for compactor in self._compactors)
        until(lambda: all(follows(zone) for zone in self._ledgers), "both zones follow each other", RECOVERY)
        until(self._heads_are_equal, "both zones hold the same heads", RECOVERY)
        until(self._roots_are_equal, "all roots are equal", RECOVERY)
        for home, ledger in self._ledgers.items():
            for zone in self._ledgers:
                self._check_copy(zone, home, ledger)
                self._check_apps(zone, ledger)

    def _heads_are_equal(self) -> bool:
        berlin, tokyo = self.pair.berlin, self.pair.tokyo
        return all(
            link(holder).here == home.native.status().self.head for holder, home in ((berlin, tokyo), (tokyo, berlin))
        )

    def _roots_are_equal(self) -> bool:
        """Compare the roots of the records in both etcds with those of the heads, and with what both zones show."""
        for home in self._ledgers:
            copies = [read_copy(zone, home) for zone in self._ledgers]
            shown = [zone.ask("zone", "show", home.name)["head"] for zone in self._ledgers]
            roots = {head["root"] for head in shown}
            roots |= {root for copy in copies if copy for root in (copy.root, copy.head.root.hex())}
            counts = {head["count"] for head in shown} | {len(copy.records) for copy in copies if copy}
            if not (all(copies) and len(roots) == len(counts) == 1):
                return False
        return True

    def _check_copy(self, zone: Zone, home: Zone, ledger: Ledger) -> None:
        copy = read_copy(zone, home)
        assert copy is not None
        copy.check()
        ledger.moment().check(copy.names, ledger.doomed)
        names = list(copy.names.values())
        assert len(set(names)) == len(names), "one create made two records"
        assert set(names) <= ledger.tried
        assert not set(names) & ledger.refused, "what was refused was applied"

    def _check_apps(self, zone: Zone, ledger: Ledger) -> None:
        """Check in one zone that the apps of a home which were said to be READY are."""
        apps = {app.id: app for app in zone.native.call(zone.native.apps.List, ListAppsRequest()).apps}
        for key in ledger.ready - ledger.doomed:
            app = apps[int(key.removeprefix("app/"))]
            assert (app.state, app.sha256) == (APP_STATE_READY, hashlib.sha256(CONTENT).hexdigest()), app
