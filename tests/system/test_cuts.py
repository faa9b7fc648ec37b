"""Cuts, kills and ends: what two zones do while they cannot reach each other, and what a zone finds when it is back."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from demo import processes
from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_STATE_FAILED
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    IMAGE_STATE_ERROR,
    IMAGE_STATE_READY,
)
from fedmarket.pb.fedmarket.v1.zone_pb2 import LINK_STATE_DOWN, LINK_STATE_TAIL
from tests.support.native import code
from tests.support.proxy import Proxy
from tests.support.zones import Pair, Zone, link, run, runs, until, yard

BAD_INPUT, NO_ANSWER = 2, 6


@dataclass(frozen=True)
class Cuttable(Pair):
    """Two zones that reach each other's peer ports through relays."""

    to_berlin: Proxy
    to_tokyo: Proxy

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Hold the zones apart: each sees the other go away, and they hold the same again at the end."""
        with self._apart(Proxy.cut):
            yield

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Hold them apart by silence."""
        with self._apart(Proxy.stall):
            yield

    @contextmanager
    def _apart(self, way: Callable[[Proxy], None]) -> Iterator[None]:
        for proxy in (self.to_berlin, self.to_tokyo):
            way(proxy)
        try:
            for zone in (self.berlin, self.tokyo):
                wait_down(zone)
            yield
        finally:
            for proxy in (self.to_berlin, self.to_tokyo):
                proxy.heal()
        self.wait_linked()
        self.wait_equal()


def wait_down(zone: Zone) -> None:
    until(lambda: link(zone).state == LINK_STATE_DOWN, f"{zone.name} sees that its peer is away")


@pytest.fixture(scope="module")
def cuttable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cuttable]:
    """Berlin and tokyo with relays between them and short waits. Leave both running and linked."""
    with yard(tmp_path_factory.mktemp("cuttable")) as zones:
        berlin, tokyo = zones.make(0, "berlin"), zones.make(100, "tokyo")
        with Proxy(berlin.peer) as to_berlin, Proxy(tokyo.peer) as to_tokyo:
            berlin.follow(tokyo.id, to_tokyo.port, tokyo.key)
            tokyo.follow(berlin.id, to_berlin.port, berlin.key)
            for zone in (berlin, tokyo):
                zone.set(
                    "timeouts",
                    beat_seconds=0.5,
                    beats_missed=4,
                    connect_seconds=2.0,
                    peer_call_seconds=2.0,
                    backoff_max_seconds=0.5,
                    idle_commit_seconds=1.0,
                )
            made = Cuttable(berlin, tokyo, to_berlin, to_tokyo)
            made.start()
            yield made


# -- cuts


def test_both_zones_go_on_while_they_are_cut_off_and_are_equal_after(cuttable: Cuttable) -> None:
    berlin, tokyo = cuttable.berlin, cuttable.tokyo
    gone = berlin.native.create_market("before-the-cut")
    cuttable.wait_equal()
    with cuttable.cut():
        for zone in (berlin, tokyo):
            image = zone.native.import_image(f"cut-{zone.name}", zone.name.encode())
            market = zone.native.create_market(f"cut-{zone.name}")
            zone.native.create_app(f"cut-{zone.name}", image.id, market.id)
        berlin.native.delete_market(gone.id)
        assert "cut-berlin" not in tokyo.native.app_names()
        assert "cut-tokyo" not in berlin.native.app_names()
        assert "before-the-cut" in tokyo.native.market_names()  # the last state that was verified
    for zone in (berlin, tokyo):
        assert {"cut-berlin", "cut-tokyo"} <= set(zone.native.app_names())
        assert "before-the-cut" not in zone.native.market_names()
    assert berlin.native.export("cut-tokyo", "healed").size_bytes == len("tokyo")


def test_the_heads_that_both_zones_tell_agree_after_a_cut(cuttable: Cuttable) -> None:
    with cuttable.cut():
        for n in range(3):
            cuttable.tokyo.native.create_market(f"agree-{n}")
    of_berlin, of_tokyo = (
        [{key: row["head"][key] for key in ("epoch", "root", "count")} for row in zone.ask("zone", "list")]
        for zone in (cuttable.berlin, cuttable.tokyo)
    )
    assert of_berlin == of_tokyo
    assert of_berlin[1]["count"] >= 4  # tokyo's record of itself, and three markets


def test_the_status_tells_since_when_a_peer_is_away_and_why(cuttable: Cuttable) -> None:
    before = link(cuttable.tokyo)
    assert (before.state, before.here.root) == (LINK_STATE_TAIL, before.there.root)
    with cuttable.cut():
        first = link(cuttable.tokyo)
        assert first.last_error
        assert first.last_error_time.ToMilliseconds() > 0
        at = f"127.0.0.1:{cuttable.to_berlin.port}"
        until(lambda: at in link(cuttable.tokyo).last_error, f"{at} is named")
        later = until(lambda: now if (now := link(cuttable.tokyo)).age_seconds > first.age_seconds else None, "time")
        assert later.state == LINK_STATE_DOWN
        assert later.here.seq >= before.here.seq
        (told,) = cuttable.tokyo.ask("federation", "status")
        assert (told["state"], told["name"], told["zone_id"]) == ("down", "berlin", 0)
        assert told["age_seconds"] >= later.age_seconds > first.age_seconds > 0
        assert at in told["last_error"]
        age = told["age_seconds"]
    again = until(lambda: now if (now := link(cuttable.tokyo)).age_seconds < age else None, "the age begins again")
    assert again.state == LINK_STATE_TAIL


def test_a_peer_that_falls_silent_on_an_open_connection_is_found_to_be_away(cuttable: Cuttable) -> None:
    with cuttable.stalled():
        cuttable.tokyo.native.create_market("in-silence")
        assert "in-silence" not in cuttable.berlin.native.market_names()
    assert "in-silence" in cuttable.berlin.native.market_names()


def test_one_direction_that_is_cut_does_not_stop_the_other(cuttable: Cuttable) -> None:
    """Each zone dials the other: what tokyo follows through the one relay does not depend on the other relay."""
    cuttable.to_tokyo.cut()
    try:
        wait_down(cuttable.berlin)
        cuttable.berlin.native.create_market("one-way")
        until(lambda: "one-way" in cuttable.tokyo.native.market_names(), "tokyo still follows berlin")
        assert link(cuttable.tokyo).state == LINK_STATE_TAIL
    finally:
        cuttable.to_tokyo.heal()
    cuttable.wait_linked()


def test_a_home_that_cannot_be_reached_is_named_and_nothing_is_left_of_the_export(cuttable: Cuttable) -> None:
    berlin, tokyo = cuttable.berlin, cuttable.tokyo
    image = berlin.native.import_image("far", b"far away")
    market = berlin.native.create_market("far")
    berlin.native.create_app("far", image.id, market.id)
    cuttable.wait_equal()
    files = tokyo.files()
    with cuttable.cut():
        begun = tokyo.native.begin_export("far", "far")
        ended = tokyo.native.wait(begun.job_id)
        assert ended.state == JOB_STATE_FAILED
        assert "zone 0" in ended.error
        left = tokyo.native.image("far")
        assert (left.state, left.error) == (IMAGE_STATE_ERROR, ended.error)
        assert tokyo.files() == files
        never = tokyo.directory / "never"
        assert "zone 0" in tokyo.fails(NO_ANSWER, "app", "download", "far", never)
        assert not never.exists()
    tokyo.native.delete_image("far")
    assert tokyo.native.export("far", "far").state == IMAGE_STATE_READY


def test_a_name_that_both_zones_took_during_a_cut_must_be_told_apart(cuttable: Cuttable) -> None:
    berlin, tokyo = cuttable.berlin, cuttable.tokyo
    ids = {}
    with cuttable.cut():
        for zone in (berlin, tokyo):
            image = zone.native.import_image("clash", f"clash of {zone.name}".encode())
            market = zone.native.create_market("clash")
            ids[zone.name] = zone.native.create_app("clash", image.id, market.id).id
    for zone in (berlin, tokyo):
        sentence = zone.fails(BAD_INPUT, "app", "show", "clash")
        for home, app_id in ids.items():
            assert f"clash@{home}" in sentence
            assert str(app_id) in sentence
            assert zone.native.app(f"clash@{home}").id == app_id
            assert zone.native.app(app_id).name == "clash"  # a name is never altered
    got = berlin.ask("app", "export", "clash@tokyo", "-d", "default", "--name", "of-tokyo")
    assert Path(got["source"]).read_bytes() == b"clash of tokyo"
    berlin.native.delete_app("clash@berlin")
    assert berlin.native.app("clash").id == ids["tokyo"]  # no longer ambiguous


# -- ends


def test_an_agent_that_is_killed_finds_everything_when_it_is_back(cuttable: Cuttable) -> None:
    berlin, tokyo = cuttable.berlin, cuttable.tokyo
    image = berlin.native.import_image("kept", b"kept")
    market = berlin.native.create_market("kept")
    app = berlin.native.create_app("kept", image.id, market.id)
    cuttable.wait_equal()
    berlin.kill()  # asserts that its etcd goes with it
    assert tokyo.native.app("kept") == app
    berlin.start()
    cuttable.wait_linked()
    assert berlin.native.app("kept") == app
    assert berlin.native.image("kept") == image
    assert berlin.native.create_market("after").id > market.id
    cuttable.wait_equal()
    assert tokyo.native.export("kept", "kept").sha256 == app.sha256


def test_a_home_that_restarts_behind_a_cut_is_caught_up_with(cuttable: Cuttable) -> None:
    """The commits of before its restart are in no memory any more: the follower finds what differs."""
    with cuttable.cut():
        cuttable.berlin.native.create_market("unseen")
        cuttable.berlin.kill()
        cuttable.berlin.start()
        cuttable.berlin.native.create_market("unseen-too")
    assert {"unseen", "unseen-too"} <= set(cuttable.tokyo.native.market_names())


def test_a_follower_that_was_killed_goes_on_where_it_was(cuttable: Cuttable) -> None:
    for n in range(2):
        cuttable.berlin.native.create_market(f"follow-{n}")
        cuttable.tokyo.kill()
        cuttable.berlin.native.create_market(f"follow-{n}-later")
        cuttable.tokyo.start()
    cuttable.wait_linked()
    cuttable.wait_equal()
    names = cuttable.tokyo.native.market_names()
    assert [name for name in names if name.startswith("follow-")] == [
        name for n in range(2) for name in (f"follow-{n}", f"follow-{n}-later")
    ]


def test_an_etcd_that_is_killed_is_started_again_and_the_zones_go_on(cuttable: Cuttable) -> None:
    berlin = cuttable.berlin
    berlin.native.create_market("before-etcd")
    etcd = berlin.etcd_pid
    os.kill(etcd, signal.SIGKILL)
    until(lambda: berlin.etcd_pid != etcd and runs(berlin.etcd_pid), "etcd runs again")

    answers: list[str] = []

    def created() -> bool:
        try:
            berlin.native.create_market("after-etcd")
        except grpc.RpcError as error:
            answers.append(code(error))
            return answers[-1] == "already-exists"
        return True

    until(created, "berlin writes again")
    # The name can be taken only by an attempt of which it was said that nobody knows how it ended.
    assert "already-exists" not in answers or "unknown" in answers
    assert berlin.agent.poll() is None
    assert {"before-etcd", "after-etcd"} <= set(berlin.native.market_names())
    image = berlin.native.import_image("after-etcd", b"x")
    berlin.native.create_app("after-etcd", image.id, "after-etcd")
    cuttable.wait_linked()
    cuttable.wait_equal()
    assert "after-etcd" in cuttable.tokyo.native.app_names()


def test_a_frozen_agent_is_away_and_comes_back(cuttable: Cuttable) -> None:
    berlin, tokyo = cuttable.berlin, cuttable.tokyo
    berlin.send(signal.SIGSTOP)
    try:
        until(lambda: link(tokyo).state == LINK_STATE_DOWN, "tokyo sees that berlin is silent")
        tokyo.native.create_market("while-frozen")
    finally:
        berlin.send(signal.SIGCONT)
    cuttable.wait_linked()
    cuttable.wait_equal()
    assert "while-frozen" in berlin.native.market_names()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_that_is_told_to_stop_stops_quickly_and_leaves_no_process(
    cuttable: Cuttable, number: signal.Signals
) -> None:
    """With a peer that follows it, and that it follows: streams that never end by themselves."""
    berlin = cuttable.berlin
    berlin.native.status()  # and a client that stays connected
    agent = next(p for p in processes.agents(berlin.directory.parent).values() if p.pid == berlin.agent.pid)
    children = processes.descendants(agent)
    assert "etcd" in {child.name for child in children}  # and what moved bytes before, if anything did
    assert berlin.terminate(number) == 0
    assert not [child for child in children if child.alive]
    berlin.start()
    cuttable.wait_linked()


def test_a_second_agent_on_one_directory_is_refused_and_the_first_goes_on(cuttable: Cuttable) -> None:
    """With settings of its own, and another port for etcd: it is the directory that cannot be shared."""
    tokyo = cuttable.tokyo
    etcd = tokyo.etcd_pid
    second = tokyo.directory / "second.toml"
    second.write_text(tokyo.config.read_text().replace(str(tokyo.etcd_port), "0"))
    done = run("agent", "run", "--config", second, "--log-level", "error")
    assert done.status == BAD_INPUT
    assert "another agent" in done.sentence
    assert runs(etcd)
    assert tokyo.native.status().links
