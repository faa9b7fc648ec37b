"""The story on two whole zones, as users of the `fedmarket` command meet it: what they see, and what scripts parse."""

import hashlib
import subprocess
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from fedmarket.pb.fedmarket.v1.app_pb2 import App
from fedmarket.pb.fedmarket.v1.common_pb2 import SCOPE_ZONE
from fedmarket.pb.fedmarket.v1.image_pb2 import Datastore, Image
from fedmarket.pb.fedmarket.v1.market_pb2 import Market
from fedmarket.pb.fedmarket.v1.record_pb2 import APP_STATE_LOCKED
from fedmarket.pb.fedmarket.v1.zone_pb2 import HeadSummary, Link
from fedmarket.pb.fedmarket.v1.zone_pb2 import Zone as ZoneMessage
from fedmarket.units import human_size
from tests.support.native import refused
from tests.support.web import serving
from tests.support.zones import Pair, Zone, until

MIB = 1 << 20
EXISTS, REFUSED, BAD_INPUT, NOT_FOUND = 4, 4, 2, 3


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def stored(zone: Zone, image: str | int) -> bytes:
    """Return the bytes of an image, as its datastore's file has them."""
    return Path(zone.native.image(image).source).read_bytes()


def seen(zone: Zone, app: str) -> App:
    """Wait until a zone lists an app as READY, and return it."""
    until(lambda: app in zone.native.app_names(), f"{zone.name} sees app {app}")
    until(lambda: zone.native.app(app).sha256, f"app {app} is READY in {zone.name}")
    return zone.native.app(app)


def holds_contract(row: Mapping[str, Any], message: type[Message]) -> None:
    """Check a row of `--json`: the proto's keys, numbers as numbers, lower-case words, RFC 3339 in UTC."""
    fields = message.DESCRIPTOR.fields
    assert list(row) == [field.name for field in fields]
    for field in fields:
        value = row[field.name]
        if field.enum_type is not None:
            assert isinstance(value, str)
            assert value == value.lower()
            assert value.isalpha()
        elif field.message_type is not None and field.message_type.full_name == "google.protobuf.Timestamp":
            assert value is None or (value.endswith("Z") and datetime.fromisoformat(value).utcoffset() == timedelta(0))
        elif field.message_type is not None:
            assert value is None or isinstance(value, dict)
        else:
            assert type(value) is PYTHON[field.cpp_type], field.name


PYTHON = {
    FieldDescriptor.CPPTYPE_INT32: int,
    FieldDescriptor.CPPTYPE_INT64: int,
    FieldDescriptor.CPPTYPE_UINT32: int,
    FieldDescriptor.CPPTYPE_UINT64: int,
    FieldDescriptor.CPPTYPE_DOUBLE: float,
    FieldDescriptor.CPPTYPE_BOOL: bool,
    FieldDescriptor.CPPTYPE_STRING: str,
}


# -- the story


def test_an_image_becomes_an_app_that_the_other_zone_sees_and_brings_home(pair: Pair, tmp_path: Path) -> None:
    berlin, tokyo = pair.berlin, pair.tokyo
    content = bytes(range(256)) * 20_000 + b"and some more"
    file = tmp_path / "disk.raw"
    file.write_bytes(content)

    image = berlin.ask("image", "import", file, "--name", "story", "--datastore", "default")
    holds_contract(image, Image)
    assert (image["state"], image["type"], image["format"]) == ("ready", "os", "raw")
    assert (image["sha256"], image["size_bytes"], image["virtual_bytes"]) == (
        sha256(content),
        len(content),
        len(content),
    )
    assert image["md5"] == hashlib.md5(content).hexdigest()
    assert (image["path"], image["from_app_id"]) == (str(file), -1)
    assert Path(image["source"]).read_bytes() == content

    market = berlin.ask("market", "create", "--name", "story-market", "--driver", "http", "--scope", "federation")
    holds_contract(market, Market)
    assert (market["state"], market["driver"], market["scope"]) == ("enabled", "http", "federation")
    assert 100 <= market["id"] < 500_000

    app = berlin.ask("app", "create", "--image", "story", "--market", "story-market", "--name", "story")
    holds_contract(app, App)
    assert (app["state"], app["type"], app["zone"], app["zone_id"]) == ("ready", "image", "berlin", 0)
    assert (app["sha256"], app["md5"], app["size_bytes"]) == (image["sha256"], image["md5"], len(content))
    assert (app["market_id"], app["origin_id"]) == (market["id"], image["id"])

    seen(tokyo, "story")
    listed = tokyo.ask("app", "list")
    assert [row for row in listed if row["name"] == "story"] == [app]
    assert tokyo.ask("app", "show", "story") == app
    assert tokyo.ask("market", "show", "story-market")["app_count"] == 1

    sentence = tokyo.fails(REFUSED, "app", "create", "-i", "story", "-m", "story-market", "--name", "intruder")
    assert "berlin" in sentence
    assert f"127.0.0.1:{berlin.grpc}" in sentence
    assert "migration" in sentence

    brought = tokyo.ask("app", "export", "story", "--datastore", "default", "--name", "brought")
    holds_contract(brought, Image)
    assert (brought["state"], brought["sha256"], brought["md5"]) == ("ready", image["sha256"], image["md5"])
    assert (brought["from_app_id"], brought["zone"]) == (app["id"], "tokyo")
    assert stored(tokyo, "brought") == content

    assert "1 app" in berlin.fails(REFUSED, "market", "delete", "story-market")
    assert berlin.ask("app", "delete", "story") == {"id": app["id"]}
    until(lambda: "story" not in tokyo.native.app_names(), "the app is gone in tokyo")
    assert berlin.ask("market", "delete", str(market["id"])) == {"id": market["id"]}
    assert berlin.ask("image", "delete", "story") == {"id": image["id"]}
    assert stored(tokyo, "brought") == content
    assert not [name for name in berlin.files() if image["source"].endswith(name)]
    tokyo.ask("image", "delete", "brought")


def test_zones_links_and_datastores_are_told_as_scripts_expect(pair: Pair) -> None:
    for zone, other in ((pair.berlin, pair.tokyo), (pair.tokyo, pair.berlin)):
        listed = zone.ask("zone", "list")
        assert [(row["id"], row["name"]) for row in listed] == [(0, "berlin"), (100, "tokyo")]
        for row in listed:
            holds_contract(row, ZoneMessage)
            holds_contract(row["head"], HeadSummary)
            assert row["local"] == (row["id"] == zone.id)
            assert row["key"] == (zone if row["local"] else other).key
        shown = zone.ask("zone", "show")
        assert (shown["name"], shown["http_endpoint"]) == (zone.name, f"http://127.0.0.1:{zone.http}")
        assert zone.ask("zone", "show", other.name)["grpc_endpoint"] == f"127.0.0.1:{other.grpc}"

        (link,) = zone.ask("federation", "status")
        holds_contract(link, Link)
        assert (link["zone_id"], link["name"], link["state"]) == (other.id, other.name, "tail")
        assert link["address"] == f"127.0.0.1:{other.peer}"
        assert link["age_seconds"] >= 0

        (datastore,) = zone.ask("datastore", "list")
        holds_contract(datastore, Datastore)
        assert (datastore["name"], datastore["driver"], datastore["state"]) == ("default", "fs", "ready")
        assert zone.ask("datastore", "show", "0")["name"] == "default"


def test_every_app_is_listed_in_the_other_zone(pair: Pair) -> None:
    """How soon is measured elsewhere: tests/bench/replication.py, and the demo says it of its own run."""
    image = pair.berlin.native.import_image("timely", b"x")
    market = pair.berlin.native.create_market("timely")
    for attempt in range(5):
        name = f"timely-{attempt}"
        pair.berlin.native.create_app(name, image.id, market.id)
        seen(pair.tokyo, name)


# -- formats


@pytest.fixture(scope="module")
def qcow2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same disk of 3 MiB, raw and qcow2."""
    directory = tmp_path_factory.mktemp("qcow2")
    raw, made = directory / "disk.raw", directory / "disk.qcow2"
    raw.write_bytes(b"boot" * 1000 + bytes(3 * MIB - 4000))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, made], check=True)
    return raw, made


def same_disk(one: Path, other: Path) -> bool:
    return subprocess.run(["qemu-img", "compare", one, other], check=False, capture_output=True).returncode == 0


def test_a_qcow2_image_keeps_its_bytes_and_is_known_as_what_it_is(pair: Pair, qcow2: tuple[Path, Path]) -> None:
    _, file = qcow2
    market = pair.berlin.native.create_market("qcow2")
    image = pair.berlin.ask("image", "import", file, "--name", "qcow2", "-d", "default", "--type", "datablock")
    assert (image["format"], image["virtual_bytes"], image["type"]) == ("qcow2", 3 * MIB, "datablock")
    assert image["size_bytes"] == file.stat().st_size != 3 * MIB
    pair.berlin.native.create_app("qcow2", image["id"], market.id)
    app = seen(pair.tokyo, "qcow2")
    assert (app.format, app.virtual_bytes, app.sha256) == ("qcow2", 3 * MIB, sha256(file.read_bytes()))
    pair.tokyo.native.export("qcow2", "as-it-is")
    assert stored(pair.tokyo, "as-it-is") == file.read_bytes()


def test_an_export_converts_to_the_format_that_was_asked_for(pair: Pair, qcow2: tuple[Path, Path]) -> None:
    raw, made = qcow2
    berlin, tokyo = pair.berlin, pair.tokyo
    market = berlin.native.create_market("formats")
    for file, source, target in ((raw, "raw", "qcow2"), (made, "qcow2", "raw")):
        image = berlin.native.import_image(f"a-{source}", file)
        berlin.native.create_app(f"a-{source}", image.id, market.id)
        seen(tokyo, f"a-{source}")
        got = tokyo.ask("app", "export", f"a-{source}", "-d", "default", "--name", f"to-{target}", "--format", target)
        assert (got["state"], got["format"], got["virtual_bytes"]) == ("ready", target, 3 * MIB)
        kept = Path(got["source"])
        assert (got["sha256"], got["size_bytes"]) == (sha256(kept.read_bytes()), kept.stat().st_size)
        assert same_disk(kept, raw)
    same = tokyo.ask("app", "export", "a-raw", "-d", "default", "--name", "stays", "--format", "raw")
    assert same["sha256"] == sha256(raw.read_bytes())


# -- markets


def test_a_market_of_zone_scope_and_its_apps_are_not_seen_elsewhere(pair: Pair) -> None:
    native = pair.berlin.native
    image = native.import_image("own", b"own")
    market = pair.berlin.ask("market", "create", "--name", "own-market", "--driver", "http", "--scope", "zone")
    app = native.create_app("own-app", image.id, market["id"])
    assert market["scope"] == "zone"
    assert market["id"] >= 500_000
    native.create_market("after-own")
    until(lambda: "after-own" in pair.tokyo.native.market_names(), "tokyo sees what was made later")
    assert "own-market" not in pair.tokyo.native.market_names()
    assert "own-app" not in pair.tokyo.native.app_names()
    assert pair.tokyo.cli("app", "show", str(app.id)).status == NOT_FOUND
    assert pair.tokyo.cli("app", "export", "own-app", "-d", "default", "--name", "x").status == NOT_FOUND
    assert not [key for key, (value, _) in pair.tokyo.dump().items() if b"own-app" in value or b"own-market" in value]
    assert pair.berlin.native.export("own-app", "own-again").sha256 == app.sha256


def test_a_market_behind_a_web_server_is_read_there_and_at_the_agent_when_that_is_down(
    pair: Pair, tmp_path: Path
) -> None:
    public = tmp_path / "public"
    public.mkdir()
    content = b"published" * 100_000
    image = pair.berlin.native.import_image("published", content)
    with serving(public) as web:
        market = pair.berlin.ask(
            "market", "create", "--name", "published", "--driver", "http",
            "--set", f"BASE_URL={web.url}", "--set", f"PUBLIC_DIR={public}",
        )  # fmt: skip
        assert market["attributes"] == {"BASE_URL": web.url, "PUBLIC_DIR": str(public)}
        app = pair.berlin.native.create_app("published", image.id, market["id"])
        (blob,) = [file for file in public.iterdir() if file.is_file()]
        assert app.source == f"{web.url}/{blob.name}"
        assert blob.stat().st_mode & 0o777 == 0o644
        seen(pair.tokyo, "published")
        pair.tokyo.native.export("published", "by-the-web")
        assert f"/{blob.name}" in web.asked
    assert stored(pair.tokyo, "by-the-web") == content
    pair.tokyo.native.export("published", "by-the-agent")
    assert stored(pair.tokyo, "by-the-agent") == content
    pair.berlin.native.delete_app("published")
    assert not blob.exists()


def test_of_two_apps_with_equal_bytes_one_can_be_deleted(pair: Pair) -> None:
    native = pair.berlin.native
    image = native.import_image("twin", b"equal bytes")
    market = native.create_market("twins")
    one, other = (native.create_app(f"twin-{n}", image.id, market.id) for n in (1, 2))
    assert one.sha256 == other.sha256
    assert len([name for name in pair.berlin.files() if f"markets/{market.id}/" in name]) == 2
    seen(pair.tokyo, "twin-2")
    pair.berlin.ask("app", "delete", "twin-1")
    assert len([name for name in pair.berlin.files() if f"markets/{market.id}/" in name]) == 1
    assert pair.tokyo.native.export("twin-2", "twin").sha256 == sha256(b"equal bytes")
    assert stored(pair.tokyo, "twin") == b"equal bytes"


# -- names and ids


def test_names_and_ids_mean_the_same_and_a_zone_can_be_named_with_a_name(pair: Pair) -> None:
    native = pair.berlin.native
    image = native.import_image("named", b"named")
    market = native.create_market("named")
    app = native.create_app("named", image.id, market.id)
    for zone in (pair.berlin, pair.tokyo):
        seen(zone, "named")
        shown = [zone.native.app(which) for which in ("named", app.id, "named@berlin", "named@0")]
        assert shown == [app] * 4
        with refused(grpc.StatusCode.NOT_FOUND, "not-found"):
            zone.native.app("named@tokyo")
    assert pair.tokyo.ask("app", "show", str(app.id)) == pair.tokyo.ask("app", "show", "named@berlin")
    assert [row["name"] for row in pair.tokyo.ask("app", "list", "--market", "named@berlin")] == ["named"]
    assert pair.berlin.ask("image", "show", str(image.id))["name"] == "named"


def test_a_name_with_an_at_sign_is_taken_literally_first(pair: Pair) -> None:
    literal = pair.berlin.native.create_market("sign@tokyo")
    until(lambda: "sign@tokyo" in pair.tokyo.native.market_names(), "tokyo sees it")
    for name in ("sign@tokyo", "sign@tokyo@berlin"):
        assert pair.tokyo.native.market(name).id == literal.id


def test_a_name_that_the_other_zone_has_is_refused(pair: Pair) -> None:
    pair.berlin.native.create_market("first-come")
    until(lambda: "first-come" in pair.tokyo.native.market_names(), "tokyo sees it")
    sentence = pair.tokyo.fails(EXISTS, "market", "create", "--name", "first-come", "--driver", "http")
    assert "berlin" in sentence
    own = pair.tokyo.ask("market", "create", "--name", "first-come-too", "--driver", "http")
    assert own["id"] >= 100_000_000


def test_names_may_hold_what_people_write(pair: Pair) -> None:
    name = "Ubuntu 24.04 – Größe (β) 日本 100%"
    image = pair.berlin.native.import_image(name, b"x")
    market = pair.berlin.native.create_market(name)
    pair.berlin.native.create_app(name, image.id, market.id)
    assert seen(pair.tokyo, name).name == name
    assert pair.tokyo.ask("app", "export", name, "-d", "default", "--name", name)["name"] == name


# -- what is in use


def test_an_image_is_not_deleted_while_an_app_is_made_from_it(pair: Pair, tmp_path: Path) -> None:
    native = pair.berlin.native
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(128 * MIB)
    image = native.import_image("used", sparse)
    market = native.create_market("uses")
    begun = native.begin_app("uses", image.id, market.id)
    assert begun.app.state == APP_STATE_LOCKED
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "refused") as seen_:
        native.delete_image("used")
    assert f"in use: app {begun.app.id} is being made" in str(seen_[0].details())
    assert native.wait(begun.job_id).error == ""
    assert pair.berlin.ask("image", "delete", "used") == {"id": image.id}
    native.delete_app("uses")
    native.delete_market(market.id)


# -- downloads


def test_a_command_that_does_not_wait_tells_the_job(pair: Pair) -> None:
    native = pair.berlin.native
    native.import_image("unwatched", b"x")
    native.create_market("unwatched")
    started = pair.berlin.ask("app", "create", "-i", "unwatched", "-m", "unwatched", "--name", "unwatched", "--no-wait")
    job_id = started.pop("job_id")
    holds_contract(started, App)
    assert started["state"] in {"locked", "ready"}
    assert native.wait(job_id).object_id == started["id"]
    seen(pair.tokyo, "unwatched")
    printed = pair.tokyo.cli("app", "export", "unwatched", "-d", "default", "--name", "unwatched", "--no-wait")
    until(lambda: pair.tokyo.native.image(int(printed.out)).sha256, "the image is READY")


def test_a_download_goes_to_a_file_or_to_stdout_from_either_zone(pair: Pair, tmp_path: Path) -> None:
    content = b"downloaded" * 300_001
    image = pair.berlin.native.import_image("download", content)
    market = pair.berlin.native.create_market("download")
    pair.berlin.native.create_app("download", image.id, market.id)
    seen(pair.tokyo, "download")
    for zone in (pair.berlin, pair.tokyo):
        target = tmp_path / f"{zone.name}.raw"
        row = zone.ask("app", "download", "download", target)
        assert (row["path"], row["sha256"]) == (str(target), sha256(content))
        assert target.read_bytes() == content
        piped = zone.cli("app", "download", "download", "-")
        assert (piped.status, piped.out, piped.err) == (0, content, "")
    assert "--force" in pair.tokyo.fails(EXISTS, "app", "download", "download", target)
    target.write_bytes(b"old")
    assert pair.tokyo.cli("app", "download", "download", target, "--force").status == 0
    assert target.read_bytes() == content
    assert sorted(file.name for file in tmp_path.iterdir()) == ["berlin.raw", "tokyo.raw"]


def test_a_download_of_what_is_not_there_leaves_no_file(pair: Pair, tmp_path: Path) -> None:
    pair.tokyo.fails(NOT_FOUND, "app", "download", "nowhere", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_tables_are_for_people(pair: Pair) -> None:
    market = pair.berlin.native.create_market("tabled", SCOPE_ZONE)
    done = pair.berlin.cli("market", "list")
    header, *rows = done.out.decode().splitlines()
    size, free = human_size(market.total_mb * MIB), f"{round(100 * market.free_mb / market.total_mb)}%"
    assert header.split() == ["ID", "NAME", "SIZE", "AVAIL", "APPS", "MAD", "SCOPE", "ZONE", "STAT"]
    assert [row.split()[1:] for row in rows if "tabled" in row] == [
        ["tabled", *size.split(), free, "0", "http", "zone", "berlin", "enabled"]
    ]
