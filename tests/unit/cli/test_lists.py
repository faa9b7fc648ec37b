import pytest

from fedmarket.pb.fedmarket.v1 import app_pb2, common_pb2, image_pb2, market_pb2, record_pb2, zone_pb2
from tests.unit.cli.conftest import Fedmarket
from tests.unit.cli.fake_agent import PAGE_SIZE, FakeAgent


@pytest.mark.parametrize("group", ["image", "market", "app"])
@pytest.mark.parametrize("count", [0, 1, PAGE_SIZE, PAGE_SIZE + 1, 2 * PAGE_SIZE + 1])
def test_a_list_has_every_page(fedmarket: Fedmarket, agent: FakeAgent, group: str, count: int) -> None:
    agent.images = [image_pb2.Image(id=n, name=f"thing-{n}") for n in range(count)]
    agent.markets = [market_pb2.Market(id=n, name=f"thing-{n}") for n in range(count)]
    agent.apps = [app_pb2.App(id=n, name=f"thing-{n}") for n in range(count)]

    listed = fedmarket(group, "list", "--json")

    assert listed.status == 0
    assert [thing["name"] for thing in listed.json] == [f"thing-{n}" for n in range(count)]


def test_a_list_that_does_not_go_on_is_an_error_and_no_endless_loop(
    fedmarket: Fedmarket, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "page", lambda things, page: (things, 0))

    listed = fedmarket("app", "list")

    assert listed.status == 1
    assert "does not end" in listed.sentence


def test_json_lists_are_arrays_also_when_empty(fedmarket: Fedmarket) -> None:
    for command in (["app", "list"], ["market", "list"], ["image", "list"], ["federation", "lost"]):
        ran = fedmarket(*command, "--json")
        assert (ran.status, ran.json, ran.err) == (0, [], "")


def test_apps_are_shown_in_columns(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    app = app_pb2.App(
        id=100000100,
        name="alpine",
        version="3.20",
        size_bytes=5 << 20,
        state=record_pb2.APP_STATE_READY,
        type=record_pb2.APP_TYPE_IMAGE,
        market="tokyo-market",
        zone="tokyo",
    )
    agent.apps = [app]

    header, row = fedmarket("app", "list").out.splitlines()

    assert header.split() == ["ID", "NAME", "VERSION", "SIZE", "TYPE", "REGTIME", "MARKET", "ZONE", "STAT"]
    assert row.split() == ["100000100", "alpine", "3.20", "5.0", "MiB", "image", "-", "tokyo-market", "tokyo", "ready"]


def test_rows_of_a_pipe_are_whole_lines_however_long(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.apps = [app_pb2.App(id=1, name="n" * 128, market="m" * 128, zone="z" * 128, version="v" * 300)]

    _, row = fedmarket("app", "list").out.splitlines()

    assert row.count("n" * 128) == row.count("m" * 128) == row.count("v" * 300) == 1


def test_a_list_can_be_of_one_market(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    fedmarket("app", "list", "--market", "main@berlin")
    fedmarket("app", "list", "-m", "100")

    assert [request.market for request in agent.asked] == [common_pb2.Ref(name="main@berlin"), common_pb2.Ref(id=100)]


def test_texts_of_other_zones_cannot_control_the_terminal(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.apps = [app_pb2.App(id=1, name="a", version="\x1b[2J[red]\r\n\x9b", description="\x1b]0;title\x07")]

    for ran in (fedmarket("app", "list"), fedmarket("app", "show", "1")):
        assert not [c for c in ran.out if not c.isprintable() and c != "\n"]
    assert "[red]" in fedmarket("app", "list").out


def test_federation_status_shows_each_link(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.links = [
        zone_pb2.Link(
            zone_id=100,
            name="tokyo",
            state=zone_pb2.LINK_STATE_TAIL,
            here=zone_pb2.HeadSummary(epoch=1, seq=41),
            there=zone_pb2.HeadSummary(epoch=1, seq=42),
            age_seconds=1.24,
            address="tokyo:7635",
        ),
        zone_pb2.Link(zone_id=200, name="lima", state=zone_pb2.LINK_STATE_DOWN, age_seconds=-1, last_error="no route"),
    ]

    _, tail, down = fedmarket("federation", "status").out.splitlines()
    links = fedmarket("federation", "status", "--json").json

    assert tail.split() == ["100", "tokyo", "tail", "1/41", "1/42", "1.2", "s", "tokyo:7635", "-"]
    assert down.split() == ["200", "lima", "down", "-", "-", "never", "-", "no", "route"]
    assert [link["state"] for link in links] == ["tail", "down"]
    assert links[0]["here"] == {"epoch": 1, "seq": 41, "root": "", "count": 0}
    assert links[1]["here"] is None


def test_zones_datastores_markets_and_images_have_their_columns(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.markets = [
        market_pb2.Market(id=100, name="m", driver="http", scope=common_pb2.SCOPE_ZONE, total_mb=1000, free_mb=250)
    ]
    agent.images = [image_pb2.Image(id=4, name="i", datastore="default", type=record_pb2.IMAGE_TYPE_CDROM)]

    assert fedmarket("zone", "list").out.splitlines()[1].split()[:3] == ["*", "0", "berlin"]
    assert "2.0 GiB    25%" in fedmarket("datastore", "list").out
    assert "zone" in fedmarket("market", "list").out.splitlines()[1].split()
    assert "25%" in fedmarket("market", "list").out
    assert "cdrom" in fedmarket("image", "list").out
