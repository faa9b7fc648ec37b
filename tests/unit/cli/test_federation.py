"""`fedmarket federation`: what is shown, what is asked of the agent, and which status tells what."""

import io
import sys

import pytest

from federation.records import encode, new_record
from fedmarket.pb.fedmarket.v1 import common_pb2, head_pb2, record_pb2, zone_pb2
from tests.unit.cli.conftest import Fedmarket
from tests.unit.cli.fake_agent import FakeAgent

OWN = zone_pb2.CatalogCheck(
    zone="berlin",
    catalog=head_pb2.CATALOG_FEDERATION,
    head=zone_pb2.HeadSummary(epoch=1, seq=9),
    count=3,
)
REPLICA = zone_pb2.CatalogCheck(
    zone_id=100,
    zone="tokyo",
    catalog=head_pb2.CATALOG_FEDERATION,
    head=zone_pb2.HeadSummary(epoch=2, seq=4),
    there=zone_pb2.HeadSummary(epoch=2, seq=5),
    current=False,
    count=1000,
)


def check(of: zone_pb2.CatalogCheck, **changes: object) -> zone_pb2.CatalogCheck:
    made = zone_pb2.CatalogCheck(**changes)  # type: ignore[arg-type]  # fields of any type
    changed = zone_pb2.CatalogCheck()
    changed.CopyFrom(of)
    changed.MergeFrom(made)
    return changed


class Terminal(io.StringIO):
    """A person at stdin."""

    def isatty(self) -> bool:
        return True


# -- status


def test_status_says_on_stderr_what_a_person_must_look_into(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.alarms = ["changes are refused\x1b[2J"]

    ran = fedmarket("federation", "status")

    assert (ran.status, ran.err) == (0, "ALARM: changes are refused [2J\n")
    assert fedmarket("federation", "status", "--json").json == []


# -- verify


def test_verify_shows_each_catalog_as_it_was_told_last(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    damaged = check(REPLICA, verdict=zone_pb2.SCRUB_VERDICT_REPAIRING, differs=["app/100000100"])
    agent.checks = [OWN, damaged, check(REPLICA, repaired=True)]

    ran = fedmarket("federation", "verify")
    _, own, replica = ran.out.splitlines()
    rows = fedmarket("federation", "verify", "--json").json

    assert ran.status == 0
    assert own.split() == ["0", "berlin", "federation", "ok", "1/9", "-", "-", "3", "0", "-"]
    assert replica.split() == ["100", "tokyo", "federation", "repaired", "2/4", "2/5", "no", "1000", "0", "-"]
    assert [(row["zone_id"], row["current"], row["repaired"]) for row in rows] == [(0, None, False), (100, False, True)]


def test_verify_can_be_of_one_zone(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    fedmarket("federation", "verify", "tokyo")
    fedmarket("federation", "verify")

    assert agent.asked == [zone_pb2.VerifyRequest(zone=common_pb2.Ref(name="tokyo")), zone_pb2.VerifyRequest()]


def test_verify_fails_where_a_catalog_is_at_fault(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    alarm = check(OWN, verdict=zone_pb2.SCRUB_VERDICT_ALARM, reason="see `fedmarket zone repair`", differs=["app/7"])
    agent.checks = [alarm, REPLICA]

    ran = fedmarket("federation", "verify")

    assert (ran.status, ran.sentence) == (8, "see `fedmarket zone repair`")
    assert "app/7" in ran.out
    assert len(ran.out.splitlines()) == 3


def test_verify_ends_after_the_timeout_where_a_copy_is_not_repaired(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.checks, agent.endless = [OWN, check(REPLICA, verdict=zone_pb2.SCRUB_VERDICT_REPAIRING)], True

    ran = fedmarket("federation", "verify", "--timeout", "0.2", "--json")

    assert (ran.status, [row["verdict"] for row in ran.json]) == (6, ["ok", "repairing"])
    assert "tokyo (100) was not whole within 0.2 s" in ran.sentence


def test_verify_that_is_not_answered_is_an_error(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.silent = True

    ran = fedmarket("federation", "verify", "--timeout", "0.2")

    assert (ran.status, ran.out) == (6, "")


# -- retry


@pytest.mark.parametrize(
    ("link", "told"),
    [
        (
            zone_pb2.Link(zone_id=100, name="tokyo", state=zone_pb2.LINK_STATE_TAIL, last_error="long ago"),
            "the link to zone tokyo (100) is tail",
        ),
        (
            zone_pb2.Link(zone_id=100, state=zone_pb2.LINK_STATE_REFUSED, last_error="another key"),
            "the link to zone 100 is refused: another key",
        ),
    ],
)
def test_retry_says_what_came_of_it(fedmarket: Fedmarket, agent: FakeAgent, link: zone_pb2.Link, told: str) -> None:
    agent.links = [link]

    ran = fedmarket("federation", "retry", "100")

    assert (ran.status, ran.out) == (0, f"{told}\n")
    assert fedmarket("federation", "retry", "100", "--json").json["last_error"] == link.last_error
    assert agent.asked[0] == zone_pb2.RetryLinkRequest(zone=common_pb2.Ref(id=100))


# -- lost


def test_lost_records_are_listed(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.lost = [
        zone_pb2.LostRecord(zone_id=100, zone="tokyo", epoch=1, kind="app", id=100000100, name="pine", size_bytes=700),
        zone_pb2.LostRecord(zone_id=100, zone="tokyo", epoch=2, kind="gadget", id=100000101, size_bytes=2048),
    ]

    _, app, gadget = fedmarket("federation", "lost").out.splitlines()
    rows = fedmarket("federation", "lost", "tokyo", "--epoch", "2", "--json").json

    assert app.split() == ["100", "tokyo", "1", "app", "100000100", "pine", "700", "B"]
    assert gadget.split() == ["100", "tokyo", "2", "gadget", "100000101", "-", "2.0", "KiB"]
    assert [row["kind"] for row in rows] == ["app", "gadget"]
    assert agent.asked == [
        zone_pb2.ListLostRequest(),
        zone_pb2.ListLostRequest(zone=common_pb2.Ref(name="tokyo"), epoch=2),
    ]


def test_a_lost_record_is_shown_as_json(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.lost = [zone_pb2.LostRecord(zone_id=100, epoch=3, kind="market", id=100000100, name="m")]
    agent.lost_value = encode(new_record(record_pb2.MarketRecord(name="m", driver="http")))

    shown = fedmarket("federation", "lost", "100", "market/100000100", "--epoch", "3").json

    assert (shown["epoch"], shown["kind"], shown["record"]["driver"]) == (3, "market", "http")
    request = zone_pb2.ShowLostRequest(zone=common_pb2.Ref(id=100), kind="market", id=100000100, epoch=3)
    assert agent.asked == [request]


def test_a_lost_record_of_an_unknown_kind_is_shown_as_it_is(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.lost, agent.lost_value = [zone_pb2.LostRecord(kind="gadget")], b"\x01\xff"

    assert fedmarket("federation", "lost", "100", "gadget/1").json["record"] == "01ff"


@pytest.mark.parametrize("record", ["app", "app/", "/1", "app/x", "app/1/2"])
def test_what_is_no_record_is_refused_here(fedmarket: Fedmarket, agent: FakeAgent, record: str) -> None:
    ran = fedmarket("federation", "lost", "100", record)

    assert (ran.status, agent.asked) == (2, [])
    assert "KIND/ID" in ran.sentence


# -- forget


def test_forget_deletes_without_asking_where_it_is_told_to(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    assert fedmarket("federation", "forget", "100", "--yes").out == "forgot zone 100: deleted 7 keys\n"
    assert fedmarket("federation", "forget", "100", "-y", "--json").json == {"zone_id": 100, "keys": 7}


def test_forget_in_a_script_must_be_told_to(
    fedmarket: Fedmarket, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))

    ran = fedmarket("federation", "forget", "100")

    assert (ran.status, agent.asked) == (2, [])
    assert "--yes" in ran.sentence


@pytest.mark.parametrize(("answer", "status", "asked"), [("y\n", 0, 1), ("Yes\n", 0, 1), ("\n", 1, 0), ("", 1, 0)])
def test_forget_asks_a_person(
    fedmarket: Fedmarket, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch, answer: str, status: int, asked: int
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))

    ran = fedmarket("federation", "forget", "100")

    assert (ran.status, len(agent.asked)) == (status, asked)
    assert "zone 100" in ran.err
