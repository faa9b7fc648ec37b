from pathlib import Path

import pytest

from fedmarket.pb.fedmarket.v1 import app_pb2, common_pb2, image_pb2, market_pb2, record_pb2
from tests.unit.cli.conftest import Fedmarket
from tests.unit.cli.fake_agent import FakeAgent


def test_show_prints_every_field_under_its_proto_name(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    app = app_pb2.App(id=7, name="a", size_bytes=3_000_000_000, state=record_pb2.APP_STATE_LOCKED)
    app.registered.FromJsonString("2026-01-02T03:04:05Z")
    agent.apps = [app]

    shown = fedmarket("app", "show", "a", "--json").json

    assert list(shown) == [field.name for field in app_pb2.App.DESCRIPTOR.fields]
    assert shown["size_bytes"] == 3_000_000_000
    assert shown["state"] == "locked"
    assert shown["registered"] == "2026-01-02T03:04:05Z"


def test_show_prints_a_line_per_field_for_people(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.markets = [market_pb2.Market(id=100, name="m", total_mb=2048, attributes={"BASE_URL": "http://x", "A": "b"})]

    lines = [line.split(maxsplit=2) for line in fedmarket("market", "show", "m").out.splitlines()]

    assert ["NAME", ":", "m"] in lines
    assert ["TOTAL", ":", "2.0 GiB"] in lines
    assert ["BASE_URL", ":", "http://x"] in lines
    assert ["REGISTERED", ":", "-"] in lines


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("7", common_pb2.Ref(id=7)),
        ("a7", common_pb2.Ref(name="a7")),
        ("a@tokyo", common_pb2.Ref(name="a@tokyo")),
        ("٣", common_pb2.Ref(name="٣")),
        ("7.0", common_pb2.Ref(name="7.0")),
    ],
)
def test_digits_are_an_id_and_anything_else_a_name(
    fedmarket: Fedmarket, agent: FakeAgent, text: str, ref: common_pb2.Ref
) -> None:
    fedmarket("app", "show", text)

    assert agent.asked == [app_pb2.ShowAppRequest(app=ref)]


def test_an_id_beyond_the_range_is_refused_here(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    ran = fedmarket("app", "show", "99999999999")

    assert (ran.status, agent.asked) == (2, [])
    assert "too great" in ran.sentence


def test_zone_show_without_argument_is_the_zone_that_answers(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    assert fedmarket("zone", "show", "--json").json["name"] == "berlin"
    assert not agent.asked[0].HasField("zone")
    assert fedmarket("zone", "show", "0", "--json").json["local"] is True


def test_market_create_sends_scope_and_settings(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    made = fedmarket(
        "market", "create", "--name", "m", "--driver", "http", "--scope", "zone",
        "--set", "BASE_URL=http://h/?a=b", "--set", "PUBLIC_DIR=", "--json",
    ).json  # fmt: skip

    assert made["id"] == 100
    assert made["scope"] == "zone"
    assert made["attributes"] == {"BASE_URL": "http://h/?a=b", "PUBLIC_DIR": ""}


def test_market_create_leaves_the_scope_to_the_driver(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    fedmarket("market", "create", "--name", "m", "--driver", "http")

    assert agent.asked[0].scope == common_pb2.SCOPE_UNSPECIFIED


@pytest.mark.parametrize("pairs", [["A"], ["=b"], [""], ["A=1", "A=2"]])
def test_market_create_refuses_settings_that_are_none(fedmarket: Fedmarket, agent: FakeAgent, pairs: list[str]) -> None:
    ran = fedmarket("market", "create", "--name", "m", "--driver", "http", *(f"--set={pair}" for pair in pairs))

    assert (ran.status, agent.asked) == (2, [])
    assert "--set" in ran.sentence


@pytest.mark.parametrize("group", ["app", "image", "market"])
def test_delete_says_what_was_deleted(fedmarket: Fedmarket, agent: FakeAgent, group: str) -> None:
    agent.apps = [app_pb2.App(id=9, name="x")]
    agent.images = [image_pb2.Image(id=9, name="x")]
    agent.markets = [market_pb2.Market(id=9, name="x")]

    assert fedmarket(group, "delete", "x", "--json").json == {"id": 9}
    assert fedmarket(group, "delete", "9").out == f"deleted {group} 9\n"


def test_options_after_the_command_win_over_those_before_and_over_the_environment(
    fedmarket: Fedmarket, agent: FakeAgent, tmp_path: Path
) -> None:
    assert fedmarket("--endpoint", "127.0.0.1:1", "zone", "list", "--endpoint", agent.endpoint).status == 0
    assert fedmarket("--endpoint", "127.0.0.1:1", "zone", "list").status == 6
    assert fedmarket("zone", "list", "--credentials", tmp_path / "missing").status == 2
    assert fedmarket("--endpoint", f"http://{agent.endpoint}", "zone", "list").status == 2
