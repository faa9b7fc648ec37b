"""What each verb does to a market, an app or an image: pure rules over a draft, as OpenNebula has them.

Where OpenNebula answers success and changes nothing (an app that is neither READY nor DISABLED is enabled), the verb is
refused. What is already as it is asked for is no error.
"""

from federation.draft import Draft
from federation.keys import home_of
from federation.records import Record
from federation.view import View
from fedmarket.errors import BadInput, NotFound, Refused
from fedmarket.jsonview import enum_word
from fedmarket.names import check_name
from fedmarket.pb.fedmarket.v1.change_pb2 import Change, Chmod, Chown, Enable, Rename, Verb
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_DISABLED,
    APP_STATE_READY,
    IMAGE_STATE_DISABLED,
    IMAGE_STATE_READY,
    MARKET_STATE_DISABLED,
    MARKET_STATE_ENABLED,
    AppRecord,
    AppState,
    ImageRecord,
    ImageState,
    MarketRecord,
    Owner,
)
from zone_agent.services.catalogs import taken
from zone_agent.services.locks import Operation, require_unlocked, set_lock
from zone_agent.services.principal import BUILTIN_GROUPS, BUILTIN_USERS, Principal
from zone_agent.services.updates import update_market, update_template

Thing = MarketRecord | AppRecord | ImageRecord

MESSAGES: dict[str, type[Thing]] = {"market": MarketRecord, "app": AppRecord, "image": ImageRecord}

ALL_BITS = 0o777
ADMIN_BITS = 0o111
"""Of owner, group and others: only who administers a thing changes them."""


def apply(draft: Draft, change: Change, principal: Principal, now: int) -> None:
    """Make a change of a record of this catalog; `now` is in Unix seconds.

    Fields that this version does not know survive. Raises NotFound where the record is gone, or another thing bears
    its id; BadInput, AlreadyExists, Refused and Denied as the verb says.
    """
    verb = change.verb
    kind, name = change.kind, verb.WhichOneof("verb")
    record = _record(draft, change)
    message = record.message
    what = f"{kind} {message.name!r}"
    if not isinstance(message, MarketRecord) and name != "lock":
        require_unlocked(what, message.lock, operation_of(verb, message.mode))
    match name:
        case "rename":
            _rename(draft, change, message, verb.rename)
        case "chmod":
            message.mode = _mode(message.mode, verb.chmod)
        case "chown":
            _chown(draft, change, message, verb.chown, principal)
        case "update" if isinstance(message, MarketRecord):
            update_market(draft, change.id, message, verb.update)
        case "update":
            update_template(message, verb.update)
        case "enable":
            _enable(draft, what, message, verb.enable)
        case "lock" if not isinstance(message, MarketRecord):
            set_lock(what, message.lock, verb.lock.level, principal, now)
            if not message.lock.level:
                message.ClearField("lock")
        case None:
            raise BadInput(f"nothing that this version knows is asked of {what}: name a verb, or upgrade the agent")
        case _:
            raise BadInput(f"{kind}s know no {name}: `fedmarket {kind} --help` tells what they know")
    draft.put(change.id, record)


def operation_of(verb: Verb, mode: int) -> Operation:
    """Return what a verb asks of a thing, whose permissions are `mode`."""
    if verb.WhichOneof("verb") == "chmod" and (_mode(mode, verb.chmod) ^ mode) & ADMIN_BITS:
        return Operation.ADMIN
    return Operation.MANAGE


def check_names(view: View, change: Change) -> None:
    """Refuse what would give a record a name that is taken in any zone, as far as this one sees. Raises AlreadyExists.

    `apply` decides within the catalog, at the very head that the commit compares; this looks at all the others.
    """
    found = view.get(MESSAGES[change.kind], change.id)
    verb = change.verb.WhichOneof("verb")
    if found is None or verb not in {"rename", "chown"}:
        return
    owner = Owner()
    owner.CopyFrom(found.message.owner)
    if verb == "chown":
        _give(owner, change.verb.chown, found.home)
    name = change.verb.rename.name if verb == "rename" else found.message.name
    if (name, owner.zone, owner.uid) != (found.message.name, found.message.owner.zone, found.message.owner.uid):
        check_name_is_free(view, change.kind, change.id, name, owner)


def check_name_is_free(view: View, kind: str, record_id: int, name: str, owner: Owner) -> None:
    """Raise AlreadyExists if this zone sees another record that bears the name: of a market, or of that owner."""
    for clash in view.named(MESSAGES[kind], name):
        if clash.id != record_id and _clashes(kind, clash.message.owner, owner):
            raise taken(kind, name, clash.id, view.zone_name(clash.home))


def _record(draft: Draft, change: Change) -> Record[Thing]:
    message = MESSAGES.get(change.kind)
    if message is None:
        raise BadInput(f"nothing of kind {change.kind[:20]!r} can be changed: say {', '.join(MESSAGES)}")
    record = draft.get(message, change.id)
    if record is None:
        raise NotFound(f"there is no {change.kind} with id {change.id}: look at `fedmarket {change.kind} list`")
    if change.uid and change.uid != record.envelope.uid:
        raise NotFound(
            f"the {change.kind} that was meant is gone, and another one bears its id {change.id}: "
            f"look at `fedmarket {change.kind} show {change.id}`"
        )
    return record


def _rename(draft: Draft, change: Change, message: Thing, rename: Rename) -> None:
    if rename.name == message.name:
        return
    check_name(rename.name, change.kind)
    _require_free(draft, change, rename.name, message.owner)
    message.name = rename.name


def _chown(draft: Draft, change: Change, message: Thing, chown: Chown, principal: Principal) -> None:
    owner = Owner()
    owner.CopyFrom(message.owner)
    # Images are local to a zone, and only principals of that zone change them.
    _give(owner, chown, principal.zone if change.kind == "image" else home_of(change.id))
    if change.kind != "market" and (owner.zone, owner.uid) != (message.owner.zone, message.owner.uid):
        _require_free(draft, change, message.name, owner)
    message.owner.CopyFrom(owner)


def _give(owner: Owner, chown: Chown, home: int) -> None:
    """Change an owner. Raises NotFound for a user or a group that is not known, BadInput for a zone without a user."""
    if chown.HasField("uid"):
        if chown.uid not in BUILTIN_USERS:
            raise NotFound(f"there is no user {chown.uid}: {_choose(BUILTIN_USERS)}")
        owner.zone, owner.uid = chown.zone if chown.HasField("zone") else home, chown.uid
    elif chown.HasField("zone"):
        raise BadInput("the zone of a user is given without the user: give both")
    if chown.HasField("gid"):
        if chown.gid not in BUILTIN_GROUPS:
            raise NotFound(f"there is no group {chown.gid}: {_choose(BUILTIN_GROUPS)}")
        owner.gid = chown.gid


def _choose(names: dict[int, str]) -> str:
    return "choose " + " or ".join(f"{number} ({name})" for number, name in names.items())


def _require_free(draft: Draft, change: Change, name: str, owner: Owner) -> None:
    for other, record in draft.named(MESSAGES[change.kind], name):
        if other != change.id and _clashes(change.kind, record.message.owner, owner):
            raise taken(change.kind, name, other)


def _clashes(kind: str, one: Owner, other: Owner) -> bool:
    # As in a create: the built-in users look alike in every zone, so a name of theirs means one thing.
    return kind == "market" or one.uid == other.uid


def _mode(mode: int, chmod: Chmod) -> int:
    if (chmod.set | chmod.clear) & ~ALL_BITS:
        raise BadInput("the permissions have bits beyond those of owner, group and others: give at most 777, in octal")
    return (mode & ~chmod.clear) | chmod.set


def _enable(draft: Draft, what: str, message: Thing, enable: Enable) -> None:
    match message:
        case MarketRecord():
            message.state = MARKET_STATE_ENABLED if enable.enabled else MARKET_STATE_DISABLED
        case AppRecord():
            _require(what, enum_word(AppState.DESCRIPTOR, message.state), enable)
            market = draft.get(MarketRecord, message.market_id)
            if enable.enabled and market is not None and market.message.state == MARKET_STATE_DISABLED:
                raise Refused(f"{what} stays disabled while its market {market.message.name!r} is: enable that first")
            message.state = APP_STATE_READY if enable.enabled else APP_STATE_DISABLED
        case ImageRecord():
            _require(what, enum_word(ImageState.DESCRIPTOR, message.state), enable)
            message.state = IMAGE_STATE_READY if enable.enabled else IMAGE_STATE_DISABLED


def _require(what: str, state: str, enable: Enable) -> None:
    if state not in {"ready", "disabled"}:
        verb = "enabled" if enable.enabled else "disabled"
        raise Refused(f"{what} is {state.upper()}, and only what is READY or DISABLED can be {verb}: wait, or delete")
