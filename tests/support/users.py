"""Users of zones under faults: they create and delete all the time, look at what is there, and complain.

What fails at a zone while that is hit is excused; whatever fails at any other time is a complaint.
"""

import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from typing import TypeVar

import grpc

from fedmarket.pb.fedmarket.v1.app_pb2 import ListAppsRequest
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_STATE_DONE
from tests.support.ledger import Ledger, Witness, read_copy
from tests.support.native import Native, code
from tests.support.zones import Zone

DEADLINE = 15.0
"""Seconds that a user waits for an answer."""
UNKNOWN = {"", "unknown"}
"""Codes of answers that leave open whether something was done; none is of gRPC itself."""
RETRY = 0.5
PROBE = 0.1
LOOK = 0.5
KEPT = 8
"""Apps that each user lets live: what comes on top is deleted."""

IMAGE = "tiny"

T = TypeVar("T")


def market_of(zone: Zone) -> str:
    """Return the name of the market that the traders of a zone use."""
    return f"storm-{zone.name}"


class Impatient(Native):
    """The native API for a user who does not wait long."""

    def call(self, method: "Callable[..., T]", request: object) -> T:
        return method(request, metadata=self.metadata, timeout=DEADLINE)


class Hits:
    """When a zone was hit."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    @contextmanager
    def span(self) -> Iterator[None]:
        began = time.monotonic()
        self._spans.append((began, float("inf")))
        try:
            yield
        finally:
            self._spans[-1] = (began, time.monotonic())

    def excuse(self, since: float) -> bool:
        """Say whether what began at `since` and has failed now met a hit."""
        return any(end >= since for _, end in self._spans)


class User(ABC):
    """Somebody who asks one zone, in a thread of their own, until told to stop."""

    def __init__(self, zone: Zone, name: str, ledger: Ledger, hits: Hits, stop: threading.Event) -> None:
        self.complaints: list[str] = []
        """What failed with no excuse."""
        self._zone = zone
        self._name = f"{name}-{zone.name}"
        self._ledger = ledger
        self._hits = hits
        self._stop = stop
        self._numbers = count()
        self._native = self._connect()

    @abstractmethod
    def run(self) -> None:
        """Ask until told to stop."""

    def close(self) -> None:
        self._native.close()

    def _connect(self) -> Impatient:
        return Impatient(f"127.0.0.1:{self._zone.grpc}", self._zone.credentials.read_text().strip())

    def _new_name(self) -> str:
        name = f"{self._name}-{next(self._numbers)}"
        self._ledger.tried.add(name)
        return name

    def _ask(self, call: Callable[[Native], T], since: float | None = None, expected: str | None = None) -> T:
        """Ask once, for something begun at `since`. Raises RpcError; it is a complaint but for the `expected` code."""
        since = since or time.monotonic()
        try:
            return call(self._native)
        except grpc.RpcError as error:
            if code(error) != expected and not self._hits.excuse(since):
                self.complaints.append(f"{self._name} after {time.monotonic() - since:.1f} s: {error}")
            if not code(error):  # a new channel dials at once, an old one would first be patient
                self._native.close()
                self._native = self._connect()
            raise

    def _tries(self) -> Iterator[None]:
        """Yield for each attempt until told to stop."""
        yield
        while not self._stop.wait(RETRY):
            yield


class Trader(User):
    """Creates apps and deletes most of them."""

    def __init__(self, zone: Zone, name: str, ledger: Ledger, hits: Hits, stop: threading.Event, pause: float) -> None:
        super().__init__(zone, name, ledger, hits, stop)
        self._pause = pause
        self._live: list[str] = []

    def run(self) -> None:
        while not self._stop.wait(self._pause):
            self._create()
            if len(self._live) > KEPT:
                self._delete(self._live.pop(random.randrange(len(self._live))))

    def _create(self) -> None:
        """Create an app. Once an outcome is unknown, insist on the name until it is known whose it is."""
        name = self._new_name()
        taken: str | None = None
        for _ in self._tries():
            since = time.monotonic()
            try:
                begun = self._ask(lambda native: native.begin_app(name, IMAGE, market_of(self._zone)), since, taken)
            except grpc.RpcError as error:
                if code(error) in UNKNOWN:
                    taken = "already-exists"
                elif not taken:
                    self._ledger.refused.add(name)
                    return
                elif code(error) == taken:
                    return  # an attempt of unknown outcome got through, which is no promise
                continue
            key = f"app/{begun.app.id}"
            self._ledger.promised[key] = name
            self._live.append(key)
            self._await_ready(key, begun.job_id, since)
            return

    def _await_ready(self, key: str, job: str, since: float) -> None:
        with suppress(grpc.RpcError):
            ended = self._ask(lambda native: native.wait(job), since)
            if ended.state == JOB_STATE_DONE:
                self._ledger.ready.add(key)
            elif not self._hits.excuse(since):
                self.complaints.append(f"{self._name}: {key}: {ended.error}")

    def _delete(self, key: str) -> None:
        """Delete an app. Once an outcome is unknown, it may be gone already."""
        self._ledger.doomed.add(key)
        gone: str | None = None
        for _ in self._tries():
            try:
                self._ask(lambda native: native.delete_app(int(key.partition("/")[2])), expected=gone)
            except grpc.RpcError as error:
                if code(error) in UNKNOWN:
                    gone = "not-found"
                elif code(error) == "not-found" and not gone:
                    self.complaints.append(f"{self._name}: {key} was lost before it was deleted")
                    return
                if code(error) != gone:
                    continue
            self._ledger.gone.add(key)
            return


class Probe(User):
    """Creates, sees and deletes a market again and again: what shows that a zone works."""

    done = 0

    def run(self) -> None:
        while not self._stop.wait(PROBE):
            with suppress(grpc.RpcError):
                self._work()
                self.done += 1

    def _work(self) -> None:
        name = self._new_name()
        made = self._ask(lambda native: native.create_market(name))
        key = f"market/{made.id}"
        self._ledger.promised[key] = name
        assert self._ask(lambda native: native.market(made.id)).name == name
        self._ledger.doomed.add(key)
        self._ask(lambda native: native.delete_market(made.id))
        self._ledger.gone.add(key)


class Observer(User):
    """Looks at both catalogs in one zone, in its etcd and by its API, and remembers what it saw."""

    def __init__(
        self, zone: Zone, homes: Mapping[Zone, Ledger], hits: Hits, stop: threading.Event, uids: dict[str, str]
    ) -> None:
        super().__init__(zone, "observer", homes[zone], hits, stop)
        self._homes = homes
        self._stored = {home: Witness(uids) for home in homes}
        self._listed = Witness(uids)

    def run(self) -> None:
        while not self._stop.wait(LOOK):
            for home in self._homes:
                with suppress(grpc.RpcError):  # of an etcd that is down
                    self._look_at(home)
            with suppress(grpc.RpcError):
                self._list()

    def _look_at(self, home: Zone) -> None:
        """Look at one catalog as etcd holds it. In the midst of a DIFF the records of a replica are of no one head."""
        before = self._homes[home].moment()
        copy = read_copy(self._zone, home)
        if copy is None:
            return
        self._stored[home].see(copy)
        if home is self._zone:
            copy.check()
            before.check(copy.names, set(self._homes[home].doomed))

    def _list(self) -> None:
        """Look at the apps as users of the zone do: they see at once what was answered them."""
        before = self._ledger.moment("app/")
        apps = self._ask(lambda native: native.call(native.apps.List, ListAppsRequest())).apps
        self._listed.see_records({f"app/{app.id}": app.uid for app in apps})
        before.check({f"app/{app.id}": app.name for app in apps}, set(self._ledger.doomed))
