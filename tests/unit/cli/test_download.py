import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from fedmarket.errors import NotFound
from fedmarket.pb.fedmarket.v1 import app_pb2, common_pb2
from fedmarket.retry import Backoff
from tests.unit.cli.conftest import Fedmarket, Ran
from tests.unit.cli.fake_agent import BLOCK, FakeAgent

Download = Callable[..., Ran]

BLOB = os.urandom(3 * BLOCK + 17)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    return place


@pytest.fixture
def download(fedmarket: Fedmarket, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> Download:
    agent.apps = [app_pb2.App(id=100, name="a")]
    agent.set_blob(BLOB)
    monkeypatch.setattr("zone_agent.cli.download.RECONNECT", Backoff(first_seconds=0, longest_seconds=0))
    return lambda *args: fedmarket("app", "download", "a", *args)


def breaks_after(agent: FakeAgent, count: int) -> Callable[[int, Any], Iterator[bytes]]:
    def send(offset: int, context: Any) -> Iterator[bytes]:
        if count:
            yield agent.blob[offset : offset + count]
        context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")

    return send


def files(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_the_file_has_the_apps_bytes(download: Download, place: Path) -> None:
    ran = download(place / "disk")

    assert ran.status == 0
    assert (place / "disk").read_bytes() == BLOB
    assert files(place) == ["disk"]
    assert "checked" in ran.out


def test_json_is_the_app_and_where_it_is(download: Download, place: Path) -> None:
    shown = download(place / "disk", "--json").json

    assert (shown["id"], shown["size_bytes"], shown["path"]) == (100, len(BLOB), str(place / "disk"))


def test_an_empty_app_is_an_empty_file(download: Download, agent: FakeAgent, place: Path) -> None:
    agent.set_blob(b"")

    assert download(place / "disk").status == 0
    assert (place / "disk").read_bytes() == b""


def test_a_stream_that_breaks_is_resumed_where_it_broke(download: Download, agent: FakeAgent, place: Path) -> None:
    agent.downloads = [breaks_after(agent, BLOCK), breaks_after(agent, 5), breaks_after(agent, 0)]

    ran = download(place / "disk")

    assert (ran.status, ran.err) == (0, "")
    assert (place / "disk").read_bytes() == BLOB
    assert [request.offset for request in agent.asked] == [0, BLOCK, BLOCK + 5, BLOCK + 5]
    assert agent.asked[1].app == common_pb2.Ref(id=100), "a name could mean another app by now"


def test_a_stream_that_ends_early_is_resumed(download: Download, agent: FakeAgent, place: Path) -> None:
    agent.downloads = [lambda offset, context: iter([BLOB[:10]])]

    assert download(place / "disk").status == 0
    assert (place / "disk").read_bytes() == BLOB


def test_a_stream_that_falls_silent_is_resumed(download: Download, agent: FakeAgent, place: Path) -> None:
    def falls_silent(offset: int, context: Any) -> Iterator[bytes]:
        yield BLOB[:10]
        agent.wait_for_end(context)

    agent.downloads = [falls_silent]

    assert download(place / "disk", "--timeout", "3").status == 0
    assert (place / "disk").read_bytes() == BLOB


def test_resuming_ends_when_it_brings_nothing(download: Download, agent: FakeAgent, place: Path) -> None:
    agent.downloads = [breaks_after(agent, 10), *[breaks_after(agent, 0)] * 10]

    ran = download(place / "disk")

    assert ran.status == 6
    assert files(place) == []
    assert len(agent.asked) == 5


def test_wrong_bytes_never_become_the_file(download: Download, agent: FakeAgent, place: Path) -> None:
    agent.downloads = [lambda offset, context: iter([bytes(len(BLOB))])]

    ran = download(place / "disk")

    assert ran.status == 8
    assert "SHA-256" in ran.sentence
    assert files(place) == []


def test_too_many_bytes_are_refused(download: Download, agent: FakeAgent, place: Path) -> None:
    agent.downloads = [lambda offset, context: iter([BLOB, b"more"])]

    ran = download(place / "disk")

    assert ran.status == 8
    assert files(place) == []


def test_an_app_that_was_replaced_meanwhile_is_refused(download: Download, agent: FakeAgent, place: Path) -> None:
    def replaced(offset: int, context: Any) -> Iterator[bytes]:
        yield BLOB[:10]
        agent.set_blob(b"another")

    agent.downloads = [replaced]

    ran = download(place / "disk")

    assert ran.status == 8
    assert "was replaced" in ran.sentence
    assert files(place) == []


def test_an_app_without_digest_is_refused(download: Download, agent: FakeAgent, place: Path) -> None:
    agent.apps[0].sha256 = ""

    assert download(place / "disk").status == 4
    assert files(place) == []


def test_an_existing_file_stays_unless_forced(download: Download, agent: FakeAgent, place: Path) -> None:
    (place / "disk").write_text("mine")

    refused = download(place / "disk")

    assert refused.status == 4
    assert "--force" in refused.sentence
    assert (place / "disk").read_text() == "mine"
    assert agent.asked == []
    assert download(place / "disk", "--force").status == 0
    assert (place / "disk").read_bytes() == BLOB


def test_a_failure_leaves_the_file_that_was_to_be_replaced(download: Download, agent: FakeAgent, place: Path) -> None:
    (place / "disk").write_text("mine")
    agent.error = NotFound("there is no app a: list them")

    assert download(place / "disk", "--force").status == 3
    assert (place / "disk").read_text() == "mine"
    assert files(place) == ["disk"]


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_place_that_is_no_file_is_refused(
    download: Download, agent: FakeAgent, place: Path, force: list[str]
) -> None:
    for target in (place, Path("/dev/null"), place / "no" / "such" / "directory"):
        assert download(target, *force).status == 2
    assert files(place) == []


def test_stdout_is_not_shared_with_json(download: Download, agent: FakeAgent) -> None:
    ran = download("-", "--json")

    assert (ran.status, ran.out, agent.asked) == (2, "", [])
