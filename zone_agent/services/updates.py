"""What an update makes of a record's template: OpenNebula's rules, and that a market stays usable."""

from collections.abc import Sequence
from pathlib import Path

from drivers.registry import Driver, market_driver
from federation.draft import Draft
from fedmarket.errors import BadInput, Refused
from fedmarket.pb.fedmarket.v1.change_pb2 import Update
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    APP_STATE_LOCKED,
    MARKET_STATE_DISABLED,
    AppRecord,
    Attribute,
    ImageRecord,
    MarketRecord,
    Template,
)
from fedmarket.template import check, check_count
from zone_agent.stores import attributes_of

HIDDEN = "***"
"""What is shown in place of a secret; in an update it stands for the secret that is stored."""

_PROTECTED: dict[type, frozenset[str]] = {
    MarketRecord: frozenset({"NAME", "MARKET_MAD", "STATE", "ZONE_ID"}),
    AppRecord: frozenset({"ERROR", "FORMAT", "MD5", "NAME", "ORIGIN_ID", "REGTIME", "SIZE", "SOURCE", "ZONE_ID"}),
    ImageRecord: frozenset({"ERROR", "FORMAT", "MD5", "NAME", "PATH", "REGTIME", "SIZE", "SOURCE"}),
}
"""What a record says in fields of its own, and no template changes."""


def update_template(message: MarketRecord | AppRecord | ImageRecord, update: Update) -> None:
    """Replace the template, or merge into it: each name given replaces what bore it, an empty vector removes it.

    Names of what the record's own fields say (SOURCE, SIZE, MD5 and their like) are left out, as OpenNebula does, so
    that a template can be given back as it was shown. Two are refused where they ask for something else, which
    OpenNebula passes over in silence: NAME, and MARKET_MAD. Raises BadInput.
    """
    given = check(update.template).attributes
    _refuse_other(given, "NAME", message.name, "rename it by its own verb")
    if isinstance(message, MarketRecord):
        _refuse_other(given, "MARKET_MAD", message.driver, "create another market with that driver")
    kept = [attribute for attribute in given if attribute.name not in _PROTECTED[type(message)]]
    _merge(message.template, kept, append=update.append)
    check_count(message.template)


def update_market(draft: Draft, market_id: int, message: MarketRecord, update: Update) -> None:
    """Update a market's template, and check that its driver can still be made of it.

    A secret given as it is shown stays what it was. Raises BadInput, and Refused where the place of the market's
    apps would change under them.
    """
    driver = market_driver(message.driver)
    before = attributes_of(message.template)
    update_template(message, _with_secrets(update, driver, before))
    after = attributes_of(message.template)
    driver.make(after, Path())
    moved = sorted(name for name in driver.places if before.get(name, "") != after.get(name, ""))
    if moved:
        _require_movable(draft, market_id, message, moved[0])


def _refuse_other(given: Sequence[Attribute], name: str, value: str, instead: str) -> None:
    for attribute in given:
        if attribute.name == name and attribute.value != value:
            raise BadInput(f"{name} is not changed by an update: leave it out, or {instead}")


def _with_secrets(update: Update, driver: Driver, stored: dict[str, str]) -> Update:
    """Return the update with secrets in place of what was shown for them."""
    whole = Update()
    whole.CopyFrom(update)
    for attribute in whole.template.attributes:
        if attribute.name in driver.secrets and attribute.value == HIDDEN:
            if attribute.name not in stored:
                raise BadInput(f"{attribute.name} is given as {HIDDEN}, but none is stored: give it as it is")
            attribute.value = stored[attribute.name]
    return whole


def _merge(template: Template, given: Sequence[Attribute], *, append: bool) -> None:
    """Change a template in place, so that what a newer version keeps in it survives."""
    names = {attribute.name for attribute in given}
    for index in reversed(range(len(template.attributes))):
        if not append or template.attributes[index].name in names:
            del template.attributes[index]
    template.attributes.extend(attribute for attribute in given if not _is_empty_vector(attribute))


def _is_empty_vector(attribute: Attribute) -> bool:
    return attribute.WhichOneof("content") == "vector" and not attribute.vector.pairs


def _require_movable(draft: Draft, market_id: int, message: MarketRecord, name: str) -> None:
    apps = [record.message for _, record in draft.children(AppRecord, market_id)]
    if any(app.state == APP_STATE_LOCKED for app in apps):
        raise Refused(f"{name} cannot change while apps are uploaded into market {message.name!r}: wait until they are")
    if apps and message.state != MARKET_STATE_DISABLED:
        raise Refused(
            f"the update changes {name}, where the bytes of the apps of market {message.name!r} are: "
            f"keep {name} in the template, or disable the market, move the bytes, and update it then"
        )
