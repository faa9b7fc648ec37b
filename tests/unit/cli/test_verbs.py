"""The verbs on the command line: what is asked of the agent, and what is printed."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fedmarket.errors import OutcomeUnknown
from fedmarket.pb.fedmarket.v1 import app_pb2, image_pb2, market_pb2
from fedmarket.pb.fedmarket.v1.change_pb2 import (
    Chmod,
    Chown,
    Enable,
    Monitor,
    Rename,
    SetLock,
    Update,
    Verb,
)
from fedmarket.pb.fedmarket.v1.common_pb2 import Ref
from fedmarket.pb.fedmarket.v1.record_pb2 import LOCK_LEVEL_ADMIN, LOCK_LEVEL_MANAGE, LOCK_LEVEL_NONE, LOCK_LEVEL_USE
from fedmarket.template import parse
from tests.unit.cli.conftest import Fedmarket
from tests.unit.cli.fake_agent import FakeAgent

KINDS = ("market", "app", "image")
REQUEST = "a-request-id-0001"


@pytest.fixture(autouse=True)
def things(agent: FakeAgent) -> None:
    agent.markets = [market_pb2.Market(id=100, name="web")]
    agent.apps = [app_pb2.App(id=100, name="web")]
    agent.images = [image_pb2.Image(id=100, name="web")]


COMMON: list[tuple[Sequence[str], Verb, str]] = [
    (["rename", "web", "new name"], Verb(rename=Rename(name="new name")), "renamed {} 100 to new name"),
    (["chmod", "web", "640"], Verb(chmod=Chmod(set=0o640, clear=0o137)), "changed the permissions of {} 100 by 640"),
    (["chown", "web", "serveradmin"], Verb(chown=Chown(uid=1)), "gave {} 100 to serveradmin"),
    (["chown", "web", "0", "users"], Verb(chown=Chown(uid=0, gid=1)), "gave {} 100 to 0 and group users"),
    (["chgrp", "web", "oneadmin"], Verb(chown=Chown(gid=0)), "gave {} 100 to group oneadmin"),
    (["update", "web", "--set", "A=b=c"], Verb(update=Update(template=parse("A=b=c"), append=True)), "updated {} 100"),
    (["enable", "web"], Verb(enable=Enable(enabled=True)), "enabled {} 100"),
    (["disable", "web"], Verb(enable=Enable(enabled=False)), "disabled {} 100"),
]
LOCKS: list[tuple[Sequence[str], Verb, str]] = [
    (["lock", "web"], Verb(lock=SetLock(level=LOCK_LEVEL_USE)), "locked {} 100"),
    (["lock", "web", "--use"], Verb(lock=SetLock(level=LOCK_LEVEL_USE)), "locked {} 100"),
    (["lock", "web", "--all"], Verb(lock=SetLock(level=LOCK_LEVEL_USE)), "locked {} 100"),
    (["lock", "web", "--manage"], Verb(lock=SetLock(level=LOCK_LEVEL_MANAGE)), "locked {} 100"),
    (["lock", "web", "--admin"], Verb(lock=SetLock(level=LOCK_LEVEL_ADMIN)), "locked {} 100"),
    (["unlock", "web"], Verb(lock=SetLock(level=LOCK_LEVEL_NONE)), "unlocked {} 100"),
]
CASES = [
    *((kind, *case) for kind in KINDS for case in COMMON),
    *((kind, *case) for kind in ("app", "image") for case in LOCKS),
    ("market", ["monitor", "web"], Verb(monitor=Monitor()), "measured {} 100"),
]


@pytest.mark.parametrize(("kind", "args", "verb", "sentence"), CASES)
def test_each_verb_is_asked_for_and_told(
    fedmarket: Fedmarket, agent: FakeAgent, kind: str, args: Sequence[str], verb: Verb, sentence: str
) -> None:
    said = fedmarket(kind, *args, "--request-id", REQUEST)
    answer = fedmarket(kind, *args, "--json").json

    assert (said.status, said.out) == (0, f"{sentence.format(kind)}\n")
    first, second = agent.asked
    assert (first.kind, first.ref, first.verb, first.request_id) == (kind, Ref(name="web"), verb, REQUEST)
    assert second.verb == verb
    assert len(second.request_id) >= 16
    assert answer == {"id": 100, "zone_id": 0, "visible": True, "request_id": second.request_id}


def test_a_change_that_is_not_seen_here_yet_says_so(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.visible = False
    assert fedmarket("app", "rename", "web", "b").out == "renamed app 100 to b, which is not yet visible here\n"
    assert fedmarket("app", "rename", "web", "b", "--json").json["visible"] is False


@pytest.mark.parametrize(
    ("mode", "chmod"),
    [
        ("000", Chmod(clear=0o777)),
        ("777", Chmod(set=0o777)),
        ("um-u--u--", Chmod(set=0o644, clear=0o133)),
        ("--a------", None),
        ("o+u", Chmod(set=0o004)),
        ("go-uma", Chmod(clear=0o077)),
        ("u+a,g-m", Chmod(set=0o100, clear=0o020)),
        ("g+u,g-u", Chmod(clear=0o040)),
        ("g-u,g+u", Chmod(set=0o040)),
        ("ugo+uu", Chmod(set=0o444)),
    ],
)
def test_permissions_are_written_in_three_ways(
    fedmarket: Fedmarket, agent: FakeAgent, mode: str, chmod: Chmod | None
) -> None:
    ran = fedmarket("app", "chmod", "web", *(["--", mode] if mode.startswith("-") else [mode]))
    assert ran.status == 0
    assert agent.asked[0].verb.chmod == (chmod or Chmod(set=0o100, clear=0o677))


@pytest.mark.parametrize("mode", ["", "64", "0640", "888", "rw-r--r--", "g=u", "a+u", "g+u,", "g+", "٦٤٠"])
def test_what_are_no_permissions_is_refused_here(fedmarket: Fedmarket, agent: FakeAgent, mode: str) -> None:
    ran = fedmarket("app", "chmod", "web", mode)
    assert (ran.status, agent.asked) == (2, [])
    assert "640" in ran.sentence


@pytest.mark.parametrize(
    "args", [["chown", "web", "nobody"], ["chown", "web", "0", "x"], ["chgrp", "web", "99999999999"]]
)
def test_users_and_groups_that_are_not_known_are_refused_here(
    fedmarket: Fedmarket, agent: FakeAgent, args: list[str]
) -> None:
    ran = fedmarket("image", *args)
    assert (ran.status, agent.asked) == (2, [])
    assert "oneadmin" in ran.sentence


def test_a_file_replaces_and_with_append_merges(fedmarket: Fedmarket, agent: FakeAgent, tmp_path: Path) -> None:
    file = tmp_path / "template"
    file.write_text('A = "1"\nB = [ C = 2 ]\n')
    fedmarket("app", "update", "web", file)
    fedmarket("app", "update", "web", file, "--append")
    fedmarket("app", "update", "web", file, "-a")
    assert [(asked.verb.update.template, asked.verb.update.append) for asked in agent.asked] == [
        (parse(file.read_text()), append) for append in (False, True, True)
    ]


def test_stdin_is_read_as_a_file(fedmarket: Fedmarket, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("A = ü".encode())))
    assert fedmarket("market", "update", "web", "-").status == 0
    assert agent.asked[0].verb.update.template.attributes[0].value == "ü"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"A = 1\nB = two words", "line 2, column 14"),
        (b"\xff", "no UTF-8"),
        (b"A = x" + b"x" * (1 << 20), "too long"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_template_is_refused_here(
    fedmarket: Fedmarket, agent: FakeAgent, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "template"
    if content is not None:
        file.write_bytes(content)
    ran = fedmarket("app", "update", "web", file)
    assert (ran.status, agent.asked) == (2, [])
    assert reason in ran.sentence


@pytest.mark.parametrize(
    "args",
    [
        ["update", "web"],
        ["update", "web", "-", "--set", "A=b"],
        ["update", "web", "--set", "A"],
        ["update", "web", "--set", "A=1", "--set", "A=2"],
        ["lock", "web", "--use", "--manage"],
        ["lock", "web", "--all", "--admin"],
    ],
)
def test_what_cannot_be_meant_is_refused_here(fedmarket: Fedmarket, agent: FakeAgent, args: list[str]) -> None:
    ran = fedmarket("app", *args)
    assert (ran.status, agent.asked) == (2, [])
    assert ran.sentence


def test_markets_have_no_lock_and_nothing_else_a_monitor(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    for args in (["market", "lock", "web"], ["app", "monitor", "web"], ["image", "monitor", "web"]):
        assert fedmarket(*args).status == 2
    assert agent.asked == []


def test_an_answer_that_is_lost_tells_how_to_ask_again(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.error = OutcomeUnknown("the home did not answer")
    ran = fedmarket("app", "disable", "web", "--request-id", REQUEST)
    assert ran.status == 7
    assert REQUEST in ran.sentence


def test_show_prints_what_can_be_changed(fedmarket: Fedmarket, agent: FakeAgent) -> None:
    agent.apps[0].lock, agent.apps[0].lock_owner = LOCK_LEVEL_MANAGE, "oneadmin"
    agent.apps[0].attributes["TAGS"] = "a, b"
    assert fedmarket("app", "show", "web", "--json").json["lock"] == "manage"
    lines = [line.split(maxsplit=2) for line in fedmarket("app", "show", "web").out.splitlines()]
    assert ["LOCK", ":", "manage"] in lines
    assert ["TAGS", ":", "a, b"] in lines
