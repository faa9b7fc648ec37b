"""Bad input to a running zone: one clear sentence and the documented status each, and nothing half done."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from fedmarket.pb.fedmarket.v1.job_pb2 import JOB_STATE_FAILED
from fedmarket.pb.fedmarket.v1.market_pb2 import CreateMarketRequest
from fedmarket.pb.fedmarket.v1.record_pb2 import APP_STATE_ERROR, IMAGE_STATE_READY
from tests.support.native import refused
from tests.support.zones import BOUND, FEDMARKET, Zone, free_port, run, until

MIB = 1 << 20
FAULT, BAD_INPUT, NOT_FOUND, REFUSED, DENIED, NO_ANSWER = 1, 2, 3, 4, 5, 6
CORRUPT = 8
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "bad-input")

BAD_NAMES = {
    "empty": "",
    "slash": "a/b",
    "path": "../../etc/passwd",
    "dots": "..",
    "dot": ".",
    "newline": "a\nb",
    "escape": "\x1b[31mred",
    "nul": "a\0b",
    "right-to-left": "a\u202egpj.exe",
    "200-bytes": "x" * 200,
    "129-bytes": "日" * 43,
    "blank-in-front": " a",
    "blank-behind": "a ",
    "quote": 'a"b',
    "backslash": "a\\b",
    "no-break-space": "a\u00a0b",
}


@contextmanager
def unchanged(zone: Zone) -> Iterator[None]:
    """Expect nothing to be different afterwards."""
    before = zone.kept()
    yield
    try:
        until(lambda: zone.kept() == before, "nothing is left of what was refused")
    except AssertionError:
        assert zone.kept() == before  # which shows what is left


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "disk.raw"
    path.write_bytes(b"disk" * 1000)
    return path


@pytest.fixture(scope="module")
def zone(alone: Zone) -> Zone:
    """Lima, with a market that holds an app."""
    image = alone.native.import_image("image", b"bytes")
    market = alone.native.create_market("market")
    alone.native.create_app("app", image.id, market.id)
    return alone


# -- names


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_name_that_cannot_be_used_is_refused_for_everything(zone: Zone, name: str) -> None:
    native = zone.native
    creates: list[Callable[[], object]] = [
        lambda: native.create_market(name),
        lambda: native.begin_app(name, "image", "market"),
        lambda: native.begin_export("app", name),
        lambda: native.import_image(name, b"x"),
    ]
    with unchanged(zone):
        for create in creates:
            with refused(*INVALID) as seen:
                create()
            assert str(seen[0].details()).isprintable()
            assert len(str(seen[0].details())) < 300


def test_a_bad_name_is_told_on_one_line(zone: Zone) -> None:
    with unchanged(zone):
        for name in ("", "a/b", "\x1b[31mred\n"):
            sentence = zone.fails(BAD_INPUT, "market", "create", "--name", name, "--driver", "http")
            assert sentence.isprintable()
            assert "market" in sentence


def test_names_and_ids_that_are_not_there_are_told_with_where_to_look(zone: Zone, file: Path) -> None:
    with unchanged(zone):
        for words in (
            ["app", "delete", "99999"],
            ["app", "export", "app", "-d", "nowhere", "--name", "n"],
            ["app", "create", "-i", "image", "-m", "nowhere", "--name", "n"],
            ["image", "import", str(file), "--name", "n", "-d", "nowhere"],
            ["zone", "show", "../x"],
        ):
            assert "list" in zone.fails(NOT_FOUND, *words)


def test_an_id_that_is_too_great_is_bad_input(zone: Zone) -> None:
    assert "too great" in zone.fails(BAD_INPUT, "app", "show", "9" * 30)


@pytest.mark.parametrize(
    "words",
    [
        ["market", "create", "--name", "market", "--driver", "http"],
        ["app", "create", "-i", "image", "-m", "market", "--name", "app"],
        ["app", "export", "app", "-d", "default", "--name", "image"],
    ],
    ids=["market", "app", "export"],
)
def test_a_name_that_is_taken_is_refused(zone: Zone, words: list[str]) -> None:
    with unchanged(zone):
        assert "taken" in zone.fails(REFUSED, *words)


def test_an_image_name_that_is_taken_is_refused_before_any_byte_is_kept(zone: Zone, file: Path) -> None:
    with unchanged(zone):
        assert "taken" in zone.fails(REFUSED, "image", "import", file, "--name", "image", "-d", "default")


# -- markets


@pytest.mark.parametrize(
    ("words", "about"),
    [
        pytest.param(["--driver", "ftp"], "http", id="driver"),
        pytest.param(["--driver", "http", "--scope", "world"], "scope", id="scope"),
        pytest.param(["--driver", "http", "--set", "PUBLIC_DIR"], "KEY=VALUE", id="set-without-value"),
        pytest.param(["--driver", "http", "--set", "A=1", "--set", "A=2"], "twice", id="set-twice"),
        pytest.param(["--driver", "http", "--set", "public_dir=/x"], "'public_dir'", id="set-lower-case"),
    ],
)
def test_a_market_that_cannot_be_is_not_created(zone: Zone, words: list[str], about: str) -> None:
    with unchanged(zone):
        assert about in zone.fails(BAD_INPUT, "market", "create", "--name", "n", *words)


@pytest.mark.parametrize(
    ("driver", "attributes", "about"),
    [
        pytest.param("fs", {}, "http", id="driver-of-a-datastore"),
        pytest.param("", {}, "http", id="no-driver"),
        pytest.param("http", {"": "x"}, "attribute", id="no-attribute"),
        pytest.param("http", {"NOTE": "a\nb"}, "NOTE", id="control-characters"),
        pytest.param("http", {"PUBLIC_DIR": "x/y"}, "absolute", id="relative"),
        pytest.param("http", {"PUBLIC_DIR": "/srv/../etc"}, "absolute", id="dots"),
        pytest.param("http", {"BASE_URL": "ftp://x/"}, "BASE_URL", id="ftp"),
        pytest.param("http", {"BASE_URL": "http:///x"}, "BASE_URL", id="no-host"),
        pytest.param("http", {"BASE_URL": "http://x/?y"}, "BASE_URL", id="query"),
    ],
)
def test_a_driver_or_an_attribute_that_cannot_be_is_bad_input(
    zone: Zone, driver: str, attributes: dict[str, str], about: str
) -> None:
    request = CreateMarketRequest(name="n", driver=driver, attributes=attributes)
    with unchanged(zone), refused(*INVALID) as seen:
        zone.native.call(zone.native.markets.Create, request)
    assert about in str(seen[0].details())


def test_a_url_with_a_password_is_refused_and_the_password_not_shown(zone: Zone) -> None:
    url = "BASE_URL=http://user:hunter2@example.org/"
    with unchanged(zone):
        sentence = zone.fails(BAD_INPUT, "market", "create", "--name", "n", "--driver", "http", "--set", url)
    assert "hunter2" not in sentence
    assert "hunter2" not in zone.log.read_text()


def test_a_public_dir_below_a_file_is_refused(zone: Zone, file: Path) -> None:
    below = f"PUBLIC_DIR={file}/public"
    with unchanged(zone):
        sentence = zone.fails(REFUSED, "market", "create", "--name", "n", "--driver", "http", "--set", below)
    assert str(file) in sentence
    assert file.read_bytes() == b"disk" * 1000


def test_a_public_dir_that_became_unusable_refuses_an_app_before_it_is_begun(zone: Zone, tmp_path: Path) -> None:
    public = tmp_path / "public"
    market = zone.native.create_market("moved", PUBLIC_DIR=str(public))
    (public / ".staging").rmdir()
    public.rmdir()
    public.write_text("in the way")
    with unchanged(zone):
        sentence = zone.fails(REFUSED, "app", "create", "-i", "image", "-m", "moved", "--name", "n")
        assert str(public) in sentence
        assert zone.native.image("image").state == IMAGE_STATE_READY
    zone.native.delete_market(market.id)


def test_a_market_that_holds_apps_is_not_deleted(zone: Zone) -> None:
    with unchanged(zone):
        assert "1 app" in zone.fails(REFUSED, "market", "delete", "market")


def test_a_message_over_the_limit_is_refused(zone: Zone) -> None:
    request = CreateMarketRequest(name="n", driver="http", attributes={"NOTE": "x" * (5 * MIB)})
    with unchanged(zone), refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        zone.native.call(zone.native.markets.Create, request)


# -- files


def test_what_is_no_file_is_not_imported(zone: Zone, tmp_path: Path) -> None:
    pipe, empty, broken = tmp_path / "pipe", tmp_path / "empty", tmp_path / "broken"
    os.mkfifo(pipe)
    empty.touch()
    broken.symlink_to(tmp_path / "nowhere")
    with unchanged(zone):
        for path in (tmp_path, pipe, empty, broken, Path("/dev/null")):
            assert str(path) in zone.fails(BAD_INPUT, "image", "import", path, "--name", "n", "-d", "default")


@pytest.mark.parametrize("change", ["shrinks", "is written to"])
def test_a_file_that_changes_while_it_is_imported_is_refused(zone: Zone, tmp_path: Path, change: str) -> None:
    path = tmp_path / "changing"
    with path.open("wb") as made:
        made.truncate(768 * MIB)
    with (
        unchanged(zone),
        subprocess.Popen(
            [FEDMARKET, "image", "import", path, "--name", "changing", "-d", "default"],
            env=os.environ | zone.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as importing,
    ):
        until(lambda: "changing" in zone.native.image_names(), "the import has begun")
        if change == "shrinks":
            os.truncate(path, MIB)
        else:
            with path.open("r+b") as written:
                written.write(b"new")
        out, err = importing.communicate(timeout=BOUND)
    assert (importing.returncode, out) == (BAD_INPUT, b"")
    (line,) = err.decode().splitlines()
    assert line.startswith(f"fedmarket: {path} ")
    assert "while it was read" in line


def test_an_import_that_its_user_interrupts_leaves_nothing(zone: Zone, tmp_path: Path) -> None:
    path = tmp_path / "long"
    with path.open("wb") as made:
        made.truncate(768 * MIB)
    with (
        unchanged(zone),
        subprocess.Popen(
            [FEDMARKET, "image", "import", path, "--name", "interrupted", "-d", "default"],
            env=os.environ | zone.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as importing,
    ):
        until(lambda: "interrupted" in zone.native.image_names(), "the import has begun")
        importing.terminate()
        _, err = importing.communicate(timeout=BOUND)
    assert (importing.returncode, b"Traceback" in err) == (143, False)


def test_a_file_that_claims_to_be_qcow2_and_is_not_is_refused(zone: Zone, tmp_path: Path) -> None:
    path = tmp_path / "broken.qcow2"
    path.write_bytes(b"QFI\xfb\0\0\0\x03" + bytes(5000))
    with unchanged(zone):
        assert "qcow2" in zone.fails(BAD_INPUT, "image", "import", path, "--name", "n", "-d", "default")


@pytest.mark.parametrize(
    ("spoil", "status", "about"),
    [
        pytest.param(lambda path: os.truncate(path, 1), CORRUPT, "shrank", id="cut-short"),
        pytest.param(lambda path: os.truncate(path, MIB + 1), CORRUPT, "grew", id="appended-to"),
        pytest.param(
            lambda path: path.write_bytes(bytes(MIB)), REFUSED, "not those that were imported", id="overwritten"
        ),
        pytest.param(lambda path: path.unlink(), NOT_FOUND, "no blob", id="deleted"),
        pytest.param(lambda path: (path.unlink(), path.mkdir()), NOT_FOUND, "", id="a-directory"),
    ],
)
def test_an_image_whose_file_is_not_what_it_was_makes_no_app(
    zone: Zone, request: pytest.FixtureRequest, spoil: Callable[[Path], object], status: int, about: str
) -> None:
    name = request.node.callspec.id
    native = zone.native
    image = native.import_image(name, b"x" * MIB)
    market = native.create_market(name)
    spoil(Path(image.source))
    sentence = zone.fails(status, "app", "create", "-i", name, "-m", name, "--name", name)
    assert about in sentence
    app = native.app(name)
    assert (app.state, app.error) == (APP_STATE_ERROR, sentence)
    assert not [file for file in zone.files() if file.startswith(f"markets/{market.id}/")]
    assert native.image(name).state == IMAGE_STATE_READY  # and no longer in use
    assert "ERROR" in zone.fails(REFUSED, "app", "export", name, "-d", "default", "--name", "n")
    native.delete_app(name)
    native.delete_market(name)


def test_an_image_whose_file_shrinks_while_it_is_read_makes_no_app(zone: Zone, tmp_path: Path) -> None:
    native = zone.native
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as made:
        made.truncate(128 * MIB)
    image = native.import_image("shrinking", sparse)
    market = native.create_market("shrinking")
    begun = native.begin_app("shrinking", image.id, market.id)
    until(lambda: [file for file in zone.files() if f"markets/{market.id}/.staging" in file], "it is being read")
    os.truncate(image.source, MIB)
    ended = native.wait(begun.job_id)
    assert ended.state == JOB_STATE_FAILED
    assert "shrank" in ended.error
    assert native.app("shrinking").state == APP_STATE_ERROR
    assert not [file for file in zone.files() if file.startswith(f"markets/{market.id}/")]
    native.delete_app("shrinking")
    native.delete_market("shrinking")
    native.delete_image("shrinking")


def test_an_app_whose_blob_was_lost_is_not_exported(zone: Zone) -> None:
    native = zone.native
    image = native.import_image("lost", b"to be lost")
    market = native.create_market("lost")
    native.create_app("lost", image.id, market.id)
    (blob,) = [file for file in zone.files() if file.startswith(f"markets/{market.id}/")]
    (zone.directory / blob).unlink()
    files = zone.files()
    sentence = zone.fails(NO_ANSWER, "app", "export", "lost", "-d", "default", "--name", "not-found")
    assert native.image("not-found").error == sentence
    assert "sig=" not in sentence
    assert zone.files() == files
    assert zone.cli("app", "download", "lost", zone.directory / "never").status == NO_ANSWER
    assert not list(zone.directory.glob("never*"))
    native.delete_app("lost")
    native.delete_market("lost")


def test_a_format_that_is_none_is_refused(zone: Zone) -> None:
    with unchanged(zone):
        zone.fails(BAD_INPUT, "app", "export", "app", "-d", "default", "--name", "n", "--format", "vmdk")
        with refused(*INVALID):
            zone.native.begin_export("app", "n", "vmdk")


# -- who asks, and whom


@pytest.mark.parametrize(
    ("content", "status", "about"),
    [
        pytest.param("oneadmin:wrong", DENIED, "credentials", id="wrong-secret"),
        pytest.param("nobody:wrong", DENIED, "credentials", id="wrong-user"),
        pytest.param("oneadmin", BAD_INPUT, "user:secret", id="no-secret"),
        pytest.param("", BAD_INPUT, "empty", id="empty"),
        pytest.param("a:b\nc:d\n", BAD_INPUT, "one line", id="two-lines"),
        pytest.param(None, BAD_INPUT, "cannot be read", id="missing"),
    ],
)
def test_credentials_that_do_not_hold_are_refused_and_not_shown(
    zone: Zone, tmp_path: Path, content: str | None, status: int, about: str
) -> None:
    path = tmp_path / "credentials"
    if content is not None:
        path.write_text(content)
    done = run("app", "list", "--credentials", path, "--endpoint", f"127.0.0.1:{zone.grpc}")
    assert (done.status, done.out) == (status, b"")
    assert about in done.sentence
    assert "wrong" not in done.sentence


def test_a_command_without_credentials_says_where_they_come_from(zone: Zone) -> None:
    done = run("app", "list", "--endpoint", f"127.0.0.1:{zone.grpc}")
    assert done.status == BAD_INPUT
    assert "FEDMARKET_CREDENTIALS" in done.sentence


def test_an_endpoint_that_is_no_agent_s_is_told_as_what_it_is(zone: Zone) -> None:
    for endpoint, status, about in (
        (f"127.0.0.1:{free_port()}", NO_ANSWER, "no agent listens"),
        (f"127.0.0.1:{zone.http}", NO_ANSWER, "does not speak gRPC"),
        (f"127.0.0.1:{zone.peer}", NO_ANSWER, "https://"),
        (f"https://127.0.0.1:{zone.grpc}", NO_ANSWER, "does not speak TLS"),
        (f"127.0.0.1:{zone.etcd_port}", FAULT, "client port of a fedmarket agent"),
        (f"http://127.0.0.1:{zone.grpc}", BAD_INPUT, "host:port"),
        ("no-such-host.invalid:7634", NO_ANSWER, "not known"),
        ("127.0.0.1", BAD_INPUT, "host:port"),
    ):
        done = zone.cli("app", "list", "--endpoint", endpoint)
        assert (done.status, done.out) == (status, b""), (endpoint, done)
        assert about in done.sentence, (endpoint, done)


def test_an_agent_that_says_nothing_is_given_up(zone: Zone) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        for words, status in ((["app", "list"], NO_ANSWER), (["market", "delete", "1"], (NO_ANSWER, 7))):
            done = zone.cli(*words, "--endpoint", endpoint, "--timeout", "1")
            assert done.status in (status if isinstance(status, tuple) else (status,))
            assert endpoint in done.sentence
