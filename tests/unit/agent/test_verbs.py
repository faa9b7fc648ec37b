"""Every verb of markets, apps and images, as pure rules over a draft."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from google.protobuf.message import Message

from drivers import registry
from drivers.registry import Attribute as DriverAttribute
from drivers.registry import Driver
from federation.commit import MAX_RECORD
from federation.draft import Draft, IdRange
from federation.head import FEDERATION
from federation.index import Index
from federation.records import Record, encode, kind_of, new_record
from federation.tree import Tree
from fedmarket.errors import AlreadyExists, BadInput, Denied, FedmarketError, NotFound, Refused, TooLarge
from fedmarket.pb.fedmarket.v1.change_pb2 import (
    Change,
    Chmod,
    Chown,
    Delete,
    Enable,
    Monitor,
    Rename,
    SetLock,
    Update,
    Verb,
)
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_DISABLED,
    APP_STATE_ERROR,
    APP_STATE_INIT,
    APP_STATE_LOCKED,
    APP_STATE_READY,
    IMAGE_STATE_DISABLED,
    IMAGE_STATE_ERROR,
    IMAGE_STATE_READY,
    IMAGE_STATE_USED,
    LOCK_LEVEL_ADMIN,
    LOCK_LEVEL_MANAGE,
    LOCK_LEVEL_NONE,
    LOCK_LEVEL_USE,
    MARKET_STATE_DISABLED,
    MARKET_STATE_ENABLED,
    Lock,
    LockLevel,
    MarketRecord,
    Owner,
)
from fedmarket.template import parse, text_of
from zone_agent.services.locks import Operation, require_unlocked
from zone_agent.services.principal import Principal
from zone_agent.services.updates import HIDDEN
from zone_agent.services.verbs import MESSAGES, Thing, apply

ZONE = 7
BASE = ZONE * 1_000_000
MARKET, APP, IMAGE = BASE + 100, BASE + 100, 3
IDS = {"market": MARKET, "app": APP, "image": IMAGE}
ONEADMIN = Owner(zone=ZONE, uid=0, gid=0)
ADMIN = Principal(ZONE, 0, 0)
SERVERADMIN = Principal(ZONE, 1, 0)
USER = Principal(ZONE, 1, 1)
NOW = 1_800_000_000
UNKNOWN = b"\xa2\x3f\x03new"
"""A field 1012, of a newer version."""
KINDS = ("market", "app", "image")


def thing(kind: str, **fields: Any) -> Thing:
    common: dict[str, Any] = {"name": f"a {kind}", "owner": ONEADMIN, "mode": 0o600}
    of_kind: dict[str, dict[str, Any]] = {
        "market": {"driver": "http"},
        "app": {"market_id": MARKET, "state": APP_STATE_READY},
        "image": {"state": IMAGE_STATE_READY},
    }
    return MESSAGES[kind](**(common | of_kind[kind] | fields))


def draft_of(*records: tuple[int, Message]) -> Draft:
    stored = {f"{kind_of(type(message))}/{record_id}": encode(new_record(message)) for record_id, message in records}
    tree, index = Tree.of(stored), Index()
    index.update(tree, stored)
    return Draft(tree, index, {}, IdRange(ZONE, FEDERATION))


def one_of_each(**fields: Mapping[str, Any]) -> Draft:
    return draft_of(*((IDS[kind], thing(kind, **fields.get(kind, {}))) for kind in KINDS))


def get(draft: Draft, kind: str) -> Record[Thing]:
    record = draft.get(MESSAGES[kind], IDS[kind])
    assert record is not None
    return record


def ask(draft: Draft, kind: str, verb: Verb, principal: Principal = ADMIN) -> Thing:
    apply(draft, Change(kind=kind, id=IDS[kind], verb=verb), principal, NOW)
    return get(draft, kind).message


def refused(cause: type[FedmarketError], draft: Draft, kind: str, verb: Verb, principal: Principal = ADMIN) -> str:
    """Return why a verb is refused, after a look that it left nothing behind."""
    before = get(draft, kind).message.SerializeToString()
    with pytest.raises(cause) as refusal:
        ask(draft, kind, verb, principal)
    assert type(refusal.value) is cause
    assert get(draft, kind).message.SerializeToString() == before
    return refusal.value.message


def rename(name: str) -> Verb:
    return Verb(rename=Rename(name=name))


def update(text: str, *, append: bool = False) -> Verb:
    return Verb(update=Update(template=parse(text), append=append))


def enable(enabled: bool) -> Verb:
    return Verb(enable=Enable(enabled=enabled))


def lock(level: LockLevel.ValueType) -> Verb:
    return Verb(lock=SetLock(level=level))


def locked(message: Thing) -> Lock | None:
    assert not isinstance(message, MarketRecord)
    return message.lock if message.HasField("lock") else None


def template(draft: Draft, kind: str) -> list[str]:
    return text_of(get(draft, kind).message.template).splitlines()


# -- which record


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_that_is_gone_is_not_found(kind: str) -> None:
    with pytest.raises(NotFound, match=f"no {kind} with id 9"):
        apply(one_of_each(), Change(kind=kind, id=9, verb=rename("x")), ADMIN, NOW)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_thing_that_was_seen_is_changed(kind: str) -> None:
    draft = one_of_each()
    uid = get(draft, kind).envelope.uid
    apply(draft, Change(kind=kind, id=IDS[kind], uid=uid, verb=rename("x")), ADMIN, NOW)
    with pytest.raises(NotFound, match="another one bears its id"):
        apply(draft, Change(kind=kind, id=IDS[kind], uid=bytes(16), verb=rename("y")), ADMIN, NOW)
    assert (get(draft, kind).message.name, get(draft, kind).envelope.uid) == ("x", uid)


@pytest.mark.parametrize("kind", ["", "zone", "datastore"])
def test_other_kinds_are_not_changed(kind: str) -> None:
    with pytest.raises(BadInput, match="can be changed"):
        apply(one_of_each(), Change(kind=kind, id=1, verb=rename("x")), ADMIN, NOW)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", [Verb(), Verb.FromString(b"\xfa\x01\x00"), Verb(delete=Delete())])
def test_what_is_no_verb_here_is_refused(kind: str, verb: Verb) -> None:
    assert kind in refused(BadInput, one_of_each(), kind, verb)


def test_a_market_has_no_lock_and_nothing_else_is_measured_here() -> None:
    assert "markets know no lock" in refused(BadInput, one_of_each(), "market", lock(LOCK_LEVEL_USE))
    for kind in KINDS:
        assert "monitor" in refused(BadInput, one_of_each(), kind, Verb(monitor=Monitor()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "verb",
    [
        rename("new"),
        Verb(chmod=Chmod(set=0o44)),
        Verb(chown=Chown(uid=1, gid=1)),
        update('TAGS = "a"'),
        update('TAGS = "a"', append=True),
        enable(False),
        lock(LOCK_LEVEL_MANAGE),
    ],
    ids=["rename", "chmod", "chown", "replace", "append", "disable", "lock"],
)
def test_what_a_newer_version_keeps_survives_every_verb(kind: str, verb: Verb) -> None:
    if (kind, verb.WhichOneof("verb")) == ("market", "lock"):
        kind = "app"
    draft = one_of_each()
    record = get(draft, kind)
    for message in (record.message, record.message.template, record.message.owner):
        message.MergeFromString(UNKNOWN)
    record.envelope.MergeFromString(UNKNOWN)
    draft.put(IDS[kind], record)

    ask(draft, kind, verb)

    after = get(draft, kind)
    for changed in (after.message, after.message.template, after.message.owner, after.envelope):
        assert UNKNOWN in changed.SerializeToString()


def test_a_record_that_only_a_newer_version_may_change_is_left_alone() -> None:
    record = new_record(thing("app"))
    record.envelope.min_reader, record.envelope.payload = 99, record.message.SerializeToString()
    tree = Tree.of({f"app/{APP}": record.envelope.SerializeToString()})
    draft = Draft(tree, Index(), {}, IdRange(ZONE, FEDERATION))
    with pytest.raises(Refused, match="schema 99"):
        ask(draft, "app", rename("x"))


# -- rename


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_is_changed_and_the_same_name_is_no_error(kind: str) -> None:
    draft = one_of_each()
    assert ask(draft, kind, rename("new name")).name == "new name"
    assert ask(draft, kind, rename("new name")).name == "new name"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["", " ", "a/b", "a\n", "..", "x" * 129, 'q"'])
def test_names_that_are_none_are_refused(kind: str, name: str) -> None:
    refused(BadInput, one_of_each(), kind, rename(name))


def test_a_market_s_name_is_unique_whoever_owns_it() -> None:
    draft = draft_of((MARKET, thing("market")), (MARKET + 1, thing("market", name="b", owner=Owner(zone=1, uid=1))))
    assert f"market {MARKET + 1}" in refused(AlreadyExists, draft, "market", rename("b"))


@pytest.mark.parametrize("kind", ["app", "image"])
def test_names_of_apps_and_images_are_unique_per_owner(kind: str) -> None:
    others = [Owner(zone=ZONE, uid=1), Owner(zone=ZONE + 1, uid=2)]
    draft = draft_of(
        (IDS[kind], thing(kind)), *((10 + n, thing(kind, name="b", owner=owner)) for n, owner in enumerate(others))
    )
    assert ask(draft, kind, rename("b")).name == "b"
    draft = draft_of((IDS[kind], thing(kind)), (10, thing(kind, name="b")))
    assert f"{kind} 10" in refused(AlreadyExists, draft, kind, rename("b"))


# -- chmod and chown


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("chmod", "mode"),
    [
        (Chmod(), 0o640),
        (Chmod(set=0o004), 0o644),
        (Chmod(clear=0o040), 0o600),
        (Chmod(set=0o755, clear=0o022), 0o755),
        (Chmod(set=0, clear=0o777), 0),
    ],
)
def test_bits_are_set_and_cleared(kind: str, chmod: Chmod, mode: int) -> None:
    assert ask(one_of_each(**{kind: {"mode": 0o640}}), kind, Verb(chmod=chmod)).mode == mode


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chmod", [Chmod(set=0o1000), Chmod(clear=1 << 31)])
def test_bits_beyond_the_nine_are_refused(kind: str, chmod: Chmod) -> None:
    refused(BadInput, one_of_each(), kind, Verb(chmod=chmod))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("chown", "owner"),
    [
        (Chown(), (ZONE, 0, 0)),
        (Chown(uid=1), (ZONE, 1, 0)),
        (Chown(gid=1), (ZONE, 0, 1)),
        (Chown(uid=0, gid=1), (ZONE, 0, 1)),
        (Chown(uid=0, zone=8), (8, 0, 0)),
    ],
)
def test_what_is_absent_stays_with_whom_it_was(kind: str, chown: Chown, owner: tuple[int, int, int]) -> None:
    after = ask(one_of_each(), kind, Verb(chown=chown)).owner
    assert (after.zone, after.uid, after.gid) == owner


def test_a_user_is_of_the_record_s_home_unless_a_zone_is_given() -> None:
    draft = one_of_each(app={"owner": Owner(zone=8, uid=1, gid=1)})
    owner = ask(draft, "app", Verb(chown=Chown(uid=0)), Principal(9, 0, 0)).owner
    assert (owner.zone, owner.uid, owner.gid) == (ZONE, 0, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chown", [Chown(uid=42), Chown(gid=42), Chown(uid=-1), Chown(gid=-1)])
def test_nobody_unknown_is_given_anything(kind: str, chown: Chown) -> None:
    assert "choose 0 (oneadmin)" in refused(NotFound, one_of_each(), kind, Verb(chown=chown))


def test_a_zone_without_its_user_is_refused() -> None:
    refused(BadInput, one_of_each(), "app", Verb(chown=Chown(zone=8)))


@pytest.mark.parametrize("kind", ["app", "image"])
def test_the_new_owner_may_have_no_other_of_that_name(kind: str) -> None:
    other = thing(kind, owner=Owner(zone=ZONE, uid=1))
    draft = draft_of((IDS[kind], thing(kind)), (10, other))
    refused(AlreadyExists, draft, kind, Verb(chown=Chown(uid=1)))
    assert ask(draft, kind, Verb(chown=Chown(gid=1))).owner.gid == 1


# -- update


@pytest.mark.parametrize("kind", KINDS)
def test_replace_and_append_are_opennebula_s(kind: str) -> None:
    draft = one_of_each()
    ask(draft, kind, update("A = 1\nB = 2\nB = 3\nC = [ X = 1 ]"))
    ask(draft, kind, update("B = 4\nC = [ ]\nD = [ Y = 2 ]\nE = [ ]", append=True))
    assert template(draft, kind) == ['A = "1"', 'B = "4"', 'D = [ Y = "2" ]']
    ask(draft, kind, update("F = 5\nG = [ ]"))
    assert template(draft, kind) == ['F = "5"']
    ask(draft, kind, update(""))
    assert template(draft, kind) == []


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("market", ["STATE", "ZONE_ID"]),
        ("app", ["SOURCE", "SIZE", "MD5", "FORMAT", "REGTIME", "ORIGIN_ID", "ERROR", "ZONE_ID"]),
        ("image", ["SOURCE", "PATH", "SIZE", "MD5", "FORMAT", "REGTIME", "ERROR"]),
    ],
)
@pytest.mark.parametrize("append", [False, True])
def test_what_the_record_says_itself_no_template_says(kind: str, names: list[str], append: bool) -> None:
    draft = one_of_each()
    before = get(draft, kind).message
    ask(draft, kind, update("".join(f"{name} = x\n" for name in names) + "KEPT = y", append=append))
    assert template(draft, kind) == ['KEPT = "y"']
    after = get(draft, kind).message
    after.ClearField("template")
    assert after == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_is_no_attribute(kind: str) -> None:
    draft = one_of_each()
    ask(draft, kind, update(f'NAME = "a {kind}"\nA = 1'))
    assert template(draft, kind) == ['A = "1"']
    assert "rename" in refused(BadInput, draft, kind, update("NAME = other"))


def test_a_market_keeps_its_driver() -> None:
    draft = one_of_each()
    ask(draft, "market", update("MARKET_MAD = http\nA = 1"))
    assert template(draft, "market") == ['A = "1"']
    assert "driver" in refused(BadInput, draft, "market", update("MARKET_MAD = s3"))


@pytest.mark.parametrize("attribute", ["PUBLIC_DIR = relative", "BASE_URL = ftp://h", "BASE_URL = http://u:p@h/"])
@pytest.mark.parametrize("append", [False, True])
def test_a_market_s_update_leaves_its_driver_usable(attribute: str, append: bool) -> None:
    refused(BadInput, one_of_each(), "market", update(attribute, append=append))


@pytest.fixture
def secretive(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A market driver that needs a secret."""
    driver = Driver(
        name="vault",
        kind="market",
        summary="for tests",
        module="drivers.market.http",
        factory="HttpMarket",
        attributes=(DriverAttribute("TOKEN", "the token", required=True, secret=True), DriverAttribute("PLAIN", "")),
    )
    drivers = MappingProxyType({**registry.MARKET_DRIVERS, "vault": driver})
    monkeypatch.setattr(registry, "MARKET_DRIVERS", drivers)
    return driver


@pytest.mark.parametrize("append", [False, True])
def test_a_secret_given_as_it_is_shown_stays_what_it_was(secretive: Driver, append: bool) -> None:
    draft = one_of_each(market={"driver": secretive.name, "template": parse("TOKEN = hush\nPLAIN = x")})
    ask(draft, "market", update(f"TOKEN = {HIDDEN}\nPLAIN = {HIDDEN}", append=append))
    assert template(draft, "market") == ['TOKEN = "hush"', f'PLAIN = "{HIDDEN}"']
    ask(draft, "market", update("TOKEN = other", append=append))
    assert 'TOKEN = "other"' in template(draft, "market")


def test_a_secret_that_is_needed_is_not_lost_and_none_is_made_up(secretive: Driver) -> None:
    draft = one_of_each(market={"driver": secretive.name, "template": parse("TOKEN = hush")})
    assert "needs TOKEN" in refused(BadInput, draft, "market", update("PLAIN = x"))
    bare = one_of_each(market={"driver": secretive.name})
    assert "none is stored" in refused(BadInput, bare, "market", update(f"TOKEN = {HIDDEN}"))


def test_the_place_of_apps_changes_only_while_their_market_is_disabled() -> None:
    draft = one_of_each(market={"template": parse("PUBLIC_DIR = /srv/a")})
    ask(draft, "market", update("PUBLIC_DIR = /srv/a\nBASE_URL = http://h"))
    for text in ("PUBLIC_DIR = /srv/b", "BASE_URL = http://h"):
        assert "PUBLIC_DIR" in refused(Refused, draft, "market", update(text))
    ask(draft, "market", enable(False))
    ask(draft, "market", update("PUBLIC_DIR = /srv/b"))
    assert template(draft, "market") == ['PUBLIC_DIR = "/srv/b"']


def test_the_place_of_an_app_never_changes_while_it_is_uploaded() -> None:
    draft = one_of_each(
        market={"template": parse("PUBLIC_DIR = /srv/a"), "state": MARKET_STATE_DISABLED},
        app={"state": APP_STATE_LOCKED},
    )
    assert "uploaded" in refused(Refused, draft, "market", update("PUBLIC_DIR = /srv/b"))


def test_an_empty_market_can_be_moved() -> None:
    draft = draft_of((MARKET, thing("market")))
    ask(draft, "market", update("PUBLIC_DIR = /srv/b"))
    assert template(draft, "market") == ['PUBLIC_DIR = "/srv/b"']


def test_a_record_over_its_limit_is_refused_by_the_commit() -> None:
    draft = one_of_each()
    ask(draft, "app", update(f'LONG = "{"x" * MAX_RECORD}"'))
    with pytest.raises(TooLarge, match="shorten its template"):
        draft.keep()


def test_attributes_that_are_merged_are_counted_together() -> None:
    draft = one_of_each()
    ask(draft, "app", update("".join(f"A{n} = x\n" for n in range(1000))))
    assert "1100 attributes" in refused(
        BadInput, draft, "app", update("".join(f"B{n} = x\n" for n in range(100)), append=True)
    )


# -- enable


def test_a_market_is_disabled_and_enabled_and_its_apps_are_not_touched() -> None:
    draft = one_of_each()
    app = get(draft, "app").message.SerializeToString()
    disabled = (False, MARKET_STATE_DISABLED)
    for enabled, state in (disabled, disabled, (True, MARKET_STATE_ENABLED)):
        assert ask(draft, "market", enable(enabled)).state == state
        assert get(draft, "app").message.SerializeToString() == app


@pytest.mark.parametrize(
    ("kind", "ready", "disabled"),
    [("app", APP_STATE_READY, APP_STATE_DISABLED), ("image", IMAGE_STATE_READY, IMAGE_STATE_DISABLED)],
)
def test_apps_and_images_go_between_ready_and_disabled(kind: str, ready: int, disabled: int) -> None:
    draft = one_of_each()
    for enabled, state in ((False, disabled), (False, disabled), (True, ready), (True, ready)):
        assert ask(draft, kind, enable(enabled)).state == state


@pytest.mark.parametrize(
    ("kind", "state", "word"),
    [
        ("app", APP_STATE_INIT, "INIT"),
        ("app", APP_STATE_LOCKED, "LOCKED"),
        ("app", APP_STATE_ERROR, "ERROR"),
        ("image", IMAGE_STATE_USED, "USED"),
        ("image", IMAGE_STATE_ERROR, "ERROR"),
        ("image", 99, "UNKNOWN-99"),
    ],
)
@pytest.mark.parametrize("enabled", [False, True])
def test_what_cannot_be_enabled_or_disabled_says_so(kind: str, state: int, word: str, enabled: bool) -> None:
    assert word in refused(Refused, one_of_each(**{kind: {"state": state}}), kind, enable(enabled))


def test_an_app_is_not_enabled_while_its_market_is_disabled() -> None:
    draft = one_of_each(market={"state": MARKET_STATE_DISABLED})
    assert "enable that first" in refused(Refused, draft, "app", enable(True))
    assert ask(draft, "app", enable(False)).state == APP_STATE_DISABLED


# -- lock


@pytest.mark.parametrize("kind", ["app", "image"])
@pytest.mark.parametrize("level", [LOCK_LEVEL_USE, LOCK_LEVEL_MANAGE, LOCK_LEVEL_ADMIN])
def test_a_lock_says_who_and_when_and_goes(kind: str, level: LockLevel.ValueType) -> None:
    draft = one_of_each()
    assert locked(ask(draft, kind, lock(level), SERVERADMIN)) == Lock(level=level, owner=SERVERADMIN.owner(), time=NOW)
    assert locked(ask(draft, kind, lock(LOCK_LEVEL_NONE))) is None
    assert locked(ask(draft, kind, lock(LOCK_LEVEL_NONE))) is None


@pytest.mark.parametrize("kind", ["app", "image"])
@pytest.mark.parametrize("level", [LOCK_LEVEL_USE, LOCK_LEVEL_MANAGE, LOCK_LEVEL_ADMIN])
def test_a_lock_bars_what_its_level_says_also_to_administrators(kind: str, level: LockLevel.ValueType) -> None:
    draft = one_of_each()
    ask(draft, kind, lock(level))
    manage = [rename("x"), Verb(chmod=Chmod(set=0o44)), Verb(chown=Chown(gid=1)), update("A = 1"), enable(False)]
    admin = [Verb(chmod=Chmod(set=0o100))]
    for verb in manage + admin:
        if level == LOCK_LEVEL_ADMIN and verb in manage:
            ask(draft, kind, verb)
        else:
            assert "unlock it first" in refused(Refused, draft, kind, verb)


@pytest.mark.parametrize(
    ("level", "barred"),
    [
        (LOCK_LEVEL_NONE, set()),
        (LOCK_LEVEL_USE, {Operation.USE, Operation.MANAGE, Operation.ADMIN}),
        (LOCK_LEVEL_MANAGE, {Operation.MANAGE, Operation.ADMIN}),
        (LOCK_LEVEL_ADMIN, {Operation.ADMIN}),
    ],
)
def test_each_level_bars_what_is_not_below_it(level: LockLevel.ValueType, barred: set[Operation]) -> None:
    found = set()
    for operation in Operation:
        try:
            require_unlocked("it", Lock(level=level), operation)
        except Refused:
            found.add(operation)
    assert found == barred


@pytest.mark.parametrize("kind", ["app", "image"])
def test_only_the_holder_or_an_administrator_lifts_or_changes_a_lock(kind: str) -> None:
    draft = one_of_each()
    ask(draft, kind, lock(LOCK_LEVEL_USE), USER)
    ask(draft, kind, lock(LOCK_LEVEL_MANAGE), USER)
    assert locked(get(draft, kind).message) == Lock(level=LOCK_LEVEL_MANAGE, owner=USER.owner(), time=NOW)
    for other in (Principal(ZONE + 1, 1, 1), Principal(ZONE, 5, 5)):
        refused(Denied, draft, kind, lock(LOCK_LEVEL_NONE), other)
        refused(Denied, draft, kind, lock(LOCK_LEVEL_ADMIN), other)
    assert locked(ask(draft, kind, lock(LOCK_LEVEL_NONE), ADMIN)) is None


def test_a_level_that_is_none_is_refused() -> None:
    refused(BadInput, one_of_each(), "app", Verb(lock=SetLock(level=4)))  # type: ignore[arg-type] # from a newer client
