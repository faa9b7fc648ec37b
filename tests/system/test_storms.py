"""Storms: two zones with real etcds under load, while links are cut and processes killed and frozen.

Users of both zones create and delete real apps with tiny images all the time, and a probe in each creates, shows and
deletes a market ten times a second. `Storm` holds every zone that is not hit to answering each of them, looks at both
catalogs twice a second for what must never be seen, and compares everything at the end.

STORM_OPERATIONS sets how many creates and deletes the kills last for, STORM_SEED repeats their order.
"""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from fedmarket.pb.fedmarket.v1.zone_pb2 import LINK_STATE_DOWN, LINK_STATE_TAIL
from tests.support.proxy import Proxy
from tests.support.storm import Storm
from tests.support.zones import Pair, Zone, Zones, link, runs, until
from zone_agent.core import LEASE_SECONDS

OPERATIONS = int(os.environ.get("STORM_OPERATIONS", "2000"))
SEED = int(os.environ.get("STORM_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
MINUTE = 60.0
ONE_WAY = 20.0
FREEZE = LEASE_SECONDS + 3.0
ROUNDS = 2
"""Times at least that each agent and each etcd is killed."""
MOMENTS = 2.0
"""Seconds at most between two kills."""


# -- cuts


@dataclass(frozen=True)
class Relayed(Pair):
    """Two zones with relays between them."""

    to_berlin: Proxy
    to_tokyo: Proxy


@contextmanager
def relayed(zones: Zones) -> Iterator[Relayed]:
    berlin, tokyo = zones.make(0, "berlin"), zones.make(100, "tokyo")
    with Proxy(berlin.peer) as to_berlin, Proxy(tokyo.peer) as to_tokyo:
        berlin.follow(tokyo.id, to_tokyo.port, tokyo.key)
        tokyo.follow(berlin.id, to_berlin.port, berlin.key)
        made = Relayed(berlin, tokyo, to_berlin, to_tokyo)
        made.start()
        yield made


def wait_down(zone: Zone) -> None:
    until(lambda: link(zone).state == LINK_STATE_DOWN, f"{zone.name} sees that its peer is away")


@pytest.mark.timeout(300)
def test_both_zones_work_through_a_minute_without_a_link_and_are_equal_after(zones: Zones) -> None:
    with relayed(zones) as pair, Storm(pair, traders=2, pause=0.2) as storm:
        for relay in (pair.to_berlin, pair.to_tokyo):
            relay.cut()
        for zone in (pair.berlin, pair.tokyo):
            wait_down(zone)
        before = storm.acknowledged
        storm.rage(MINUTE)
        assert storm.acknowledged > before
        for relay in (pair.to_berlin, pair.to_tokyo):
            relay.heal()
        storm.settle()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("way", [Proxy.cut, Proxy.mute])
def test_what_still_flows_one_way_is_followed_and_the_other_way_is_caught_up_with(
    zones: Zones, way: Callable[[Proxy], None]
) -> None:
    with relayed(zones) as pair, Storm(pair, traders=2, pause=0.2) as storm:
        way(pair.to_tokyo)
        wait_down(pair.berlin)
        storm.rage(ONE_WAY)
        storm.create_market(pair.berlin, "one-way")
        until(lambda: "one-way" in pair.tokyo.native.market_names(), "tokyo still follows berlin")
        assert link(pair.tokyo).state == LINK_STATE_TAIL
        pair.to_tokyo.heal()
        storm.settle()


# -- kills


@pytest.mark.timeout(400)
def test_agents_and_etcds_are_killed_at_random_during_thousands_of_creates_and_deletes(zones: Zones) -> None:
    print(f"STORM_SEED={SEED}")
    chance = random.Random(SEED)
    pair = zones.pair()
    faults = [(zone, kill) for zone in (pair.berlin, pair.tokyo) for kill in (kill_agent, kill_etcd)]
    with Storm(pair, traders=4, pause=0.15, compact=True) as storm:
        rounds = 0
        while rounds < ROUNDS or storm.acknowledged < OPERATIONS:
            for zone, kill in chance.sample(faults, len(faults)):
                storm.rage(chance.uniform(0, MOMENTS))
                with storm.hits(zone):
                    kill(zone, storm, chance)
            rounds += 1
        storm.settle()


def kill_agent(zone: Zone, storm: Storm, chance: random.Random) -> None:
    """Kill an agent, its etcd with it, and now and then its successor too while it starts."""
    zone.kill()
    if chance.random() < 0.3:
        zone.spawn()
        storm.rage(chance.uniform(0, MOMENTS))
        zone.kill()
    zone.start()


def kill_etcd(zone: Zone, storm: Storm, chance: random.Random) -> None:
    etcd = zone.etcd_pid
    os.kill(etcd, signal.SIGKILL)
    until(lambda: zone.etcd_pid != etcd and runs(zone.etcd_pid), f"the agent of {zone.name} starts etcd again")


# -- freezes


@pytest.mark.timeout(240)
@pytest.mark.parametrize("what", ["agent", "etcd"])
def test_an_agent_or_an_etcd_that_freezes_for_longer_than_a_lease_comes_back(zones: Zones, what: str) -> None:
    pair = zones.pair()
    berlin = pair.berlin
    pid = berlin.agent.pid if what == "agent" else berlin.etcd_pid
    with Storm(pair, traders=2, pause=0.1, compact=True) as storm:
        storm.rage(MOMENTS)
        with storm.hits(berlin):
            os.kill(pid, signal.SIGSTOP)
            try:
                storm.rage(FREEZE)
            finally:
                os.kill(pid, signal.SIGCONT)
        assert (berlin.agent.poll(), runs(pid)) == (None, True)
        storm.settle()
