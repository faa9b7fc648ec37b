"""`zone export`, `repair`, `init` and `restore`: what they print, write and refuse."""

from pathlib import Path

import pytest

from federation.commit import Origin, seal_tree
from federation.head import FEDERATION, PRIVATE
from federation.recall import from_bytes, gather, messages_of
from federation.tree import Tree
from fedmarket.pb.fedmarket.v1 import zone_pb2
from fedmarket.pb.fedmarket.v1.peer_pb2 import Commit
from tests.support.federation import key_of
from tests.unit.cli.conftest import Fedmarket
from tests.unit.cli.fake_agent import FakeAgent
from zone_agent.init import NewZone, make_zone

RECORDS = {f"market/{n}": bytes([n % 256]) * 50_000 for n in range(100, 160)}
BAD_INPUT, REFUSED, CORRUPT = 2, 4, 8


def catalog(*, signer: int = 0, records: dict[str, bytes] = RECORDS) -> list[Commit]:
    """Return what an agent of zone 0 exports: its head is over RECORDS, whatever the records are."""
    head = seal_tree(Origin(0, FEDERATION, "/", key_of(signer), "agent"), (1, 7), None, Tree.of(RECORDS), {}, 0)
    return list(messages_of(head, Tree.of(records)))


@pytest.fixture
def home(agent: FakeAgent) -> FakeAgent:
    """The agent of zone 0, which commands ask."""
    agent.zones[0].key = str(key_of(0).public)
    agent.exported = catalog()
    return agent


# -- export


def test_export_writes_a_catalog_that_verifies(fedmarket: Fedmarket, home: FakeAgent, tmp_path: Path) -> None:
    file = tmp_path / "berlin.catalog"
    ran = fedmarket("zone", "export", file)
    assert (ran.status, ran.err) == (0, "")
    assert "commit 1/7" in ran.out
    copy = gather(from_bytes(file.read_bytes()), 0, key_of(0).public)
    assert dict(copy.tree.items()) == RECORDS
    assert not home.asked[0].HasField("zone")
    assert list(tmp_path.glob("*part*")) == []


def test_export_of_another_zone_names_it(fedmarket: Fedmarket, home: FakeAgent, tmp_path: Path) -> None:
    shown = fedmarket("zone", "export", "berlin", tmp_path / "file", "--json").json
    assert shown == {"path": str(tmp_path / "file"), "zone_id": 0, "epoch": 1, "seq": 7, "count": 60}
    assert [request.zone.name for request in home.asked] == ["berlin", "berlin"]


def test_stdout_is_either_json_or_the_catalog(fedmarket: Fedmarket, home: FakeAgent) -> None:
    ran = fedmarket("zone", "export", "-", "--json")
    assert (ran.status, "both want stdout" in ran.sentence, home.asked) == (BAD_INPUT, True, [])


SPOILED = {
    "the signature of another zone": catalog(signer=1),
    "a record that was changed": catalog(records=RECORDS | {"market/100": b"other"}),
    "its end missing": catalog()[:-1],
    "nothing": [],
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_export_leaves_no_file_of_what_does_not_verify(
    fedmarket: Fedmarket, home: FakeAgent, tmp_path: Path, spoiled: str
) -> None:
    home.exported = SPOILED[spoiled]
    ran = fedmarket("zone", "export", tmp_path / "file")
    assert ran.status == CORRUPT
    assert "cannot be used" in ran.sentence
    assert not (tmp_path / "file").exists()


def test_export_replaces_a_file_only_by_force(fedmarket: Fedmarket, home: FakeAgent, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    assert fedmarket("zone", "export", tmp_path / "file").status == REFUSED
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert fedmarket("zone", "export", tmp_path / "file", "--force").status == 0
    assert len((tmp_path / "file").read_bytes()) > 60 * 50_000


# -- repair


REPAIRED = [
    zone_pb2.CatalogRepair(
        catalog=FEDERATION,
        outcome=zone_pb2.REPAIR_OUTCOME_RESTORED,
        source="zone 100",
        written=["app/100"],
        removed=["app/777"],
        head=zone_pb2.HeadSummary(epoch=1, seq=8),
    ),
    zone_pb2.CatalogRepair(catalog=PRIVATE, head=zone_pb2.HeadSummary(epoch=1, seq=3)),
]


def test_repair_says_what_it_did(fedmarket: Fedmarket, home: FakeAgent) -> None:
    home.repaired = REPAIRED
    assert fedmarket("zone", "repair").out.splitlines() == [
        "federation: put right from zone 100, in commit 1/8",
        "  put back app/100",
        "  removed  app/777",
        "private: sound, at 1/3",
    ]
    assert not home.asked[0].accept


def test_repair_for_scripts_is_an_array(fedmarket: Fedmarket, home: FakeAgent) -> None:
    home.repaired = REPAIRED
    federation, private = fedmarket("zone", "repair", "--accept", "--json").json
    assert (federation["catalog"], federation["outcome"], federation["removed"]) == (
        "federation",
        "restored",
        ["app/777"],
    )
    assert (private["catalog"], private["outcome"], private["source"]) == ("private", "sound", "")
    assert home.asked[0].accept


# -- on a stopped zone


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return make_zone(tmp_path / "zone", NewZone(id=0, name="berlin")).config.file


def test_a_new_epoch_must_be_asked_for_by_name(bare: Fedmarket, config: Path) -> None:
    ran = bare("zone", "init", "--config", config)
    assert (ran.status, "--new-epoch" in ran.sentence) == (BAD_INPUT, True)
    assert not (config.parent / "etcd").exists()


def test_a_new_epoch_wants_a_persons_word(
    bare: Fedmarket, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "empty").open("w+") as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        ran = bare("zone", "init", "--new-epoch", "--config", config)
    assert (ran.status, "--yes" in ran.sentence) == (BAD_INPUT, True)
    assert not (config.parent / "etcd").exists()


@pytest.mark.parametrize(
    ("source", "status", "about"),
    [("100", 3, "[[peers]]"), ("nowhere.catalog", BAD_INPUT, "cannot be read"), ("zone.toml", CORRUPT, "zone export")],
)
def test_a_restore_from_what_has_no_copy_touches_no_etcd(
    bare: Fedmarket, config: Path, monkeypatch: pytest.MonkeyPatch, source: str, status: int, about: str
) -> None:
    monkeypatch.chdir(config.parent)
    ran = bare("zone", "restore", "--from", source, "--config", config)
    assert (ran.status, about in ran.sentence) == (status, True), ran
    assert not (config.parent / "etcd").exists()
