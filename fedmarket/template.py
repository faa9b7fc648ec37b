r"""OpenNebula's template text: `NAME = "value"` and `NAME = [ KEY = "value", KEY = value ]`, to messages and back.

Names are upper-cased. A value in quotes may hold newlines, and `\"` for a quote; one without quotes ends at a blank,
and `NAME =` alone is empty. Values are trimmed. `#` begins a comment where a name could begin. A name may be there
several times. Unlike OpenNebula, a name may not begin with a digit: the XML form could not hold it.
"""

import re

from fedmarket.errors import BadInput
from fedmarket.pb.fedmarket.v1.record_pb2 import Attribute, Template

MAX_ATTRIBUTES = 1024
"""Of one template, the parts of its vectors included."""

_NAME = re.compile(r"[A-Z_][A-Z0-9_]*", re.ASCII)
_WRITTEN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_BETWEEN = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
_BLANKS = re.compile(r"[ \t]*")
_QUOTED = re.compile(r'"((?:[^"\\]++|\\"|\\(?!"))*+)"')
_BARE = re.compile(r'[^\s"\[][^\s"]*')
_BARE_IN_VECTOR = re.compile(r'[^\s",\]]+')
_NEVER = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")
_TRIMMED = " \t\n"


def parse(text: str) -> Template:
    """Read a template. Raises BadInput that names the line and the column."""
    return _Reader(text.replace("\r\n", "\n")).template()


def check(template: Template) -> Template:
    """Return `template` unchanged, or raise BadInput: what both forms of OpenNebula's templates can hold is taken."""
    for attribute in template.attributes:
        _check_name(attribute.name)
        match attribute.WhichOneof("content"):
            case "value":
                parts = [(attribute.name, attribute.value)]
            case "vector":
                parts = [(_check_name(pair.name), pair.value) for pair in attribute.vector.pairs]
            case _:
                raise BadInput(f"attribute {attribute.name} has no value: give it one, which may be empty")
        for name, value in parts:
            if fault := _fault(value):
                raise BadInput(f"the value of {name} {fault}: leave that out")
    return check_count(template)


def check_count(template: Template) -> Template:
    """Return `template` unchanged, or raise BadInput if it has too many attributes."""
    count = sum(max(1, len(attribute.vector.pairs)) for attribute in template.attributes)
    if count > MAX_ATTRIBUTES:
        raise BadInput(f"the template would have {count} attributes, over {MAX_ATTRIBUTES}: leave some out")
    return template


def text_of(template: Template) -> str:
    """Return a template as text, an attribute per line."""
    return "".join(f"{attribute.name} = {value_text(attribute)}\n" for attribute in template.attributes)


def value_text(attribute: Attribute) -> str:
    """Return what stands behind an attribute's `=`."""
    if attribute.WhichOneof("content") != "vector":
        return _quoted(attribute.value)
    return f"[ {', '.join(f'{pair.name} = {_quoted(pair.value)}' for pair in attribute.vector.pairs)} ]"


def _quoted(value: str) -> str:
    # A backslash at the end would make a quote of the last one; the blank behind it is trimmed away again.
    end = " " if value.endswith("\\") else ""
    return '"' + value.replace('"', '\\"') + end + '"'


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name[:40]!r} is no attribute name: use capital letters, digits and underscores")
    return name


def _fault(value: str) -> str:
    """Return why a value is not taken; empty if it is."""
    if "]]>" in value:
        return "holds ]]>, which ends a section of the XML form"
    return "holds control characters" if _NEVER.search(value) else ""


class _Reader:
    """Reads one text, from its beginning to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def template(self) -> Template:
        template = Template()
        self._skip(_BETWEEN)
        if self._text[self._at : self._at + 1] == "<":
            raise self._error('this is XML: write NAME = "value" lines')
        while self._at < len(self._text):
            name = self._name()
            if self._take("["):
                attribute = template.attributes.add(name=name)
                attribute.vector.SetInParent()
                self._vector(attribute)
            else:
                template.attributes.add(name=name, value=self._value(_BARE))
            self._skip(_BETWEEN)
        return template

    def _vector(self, attribute: Attribute) -> None:
        self._skip(_BETWEEN)
        if self._take("]"):
            return
        while True:
            name = self._name()
            attribute.vector.pairs.add(name=name, value=self._value(_BARE_IN_VECTOR))
            self._skip(_BETWEEN)
            if self._take("]"):
                return
            if not self._take(","):
                raise self._error("a comma or ] is missing here: put a value that holds blanks in quotes")
            self._skip(_BETWEEN)

    def _name(self) -> str:
        """Read a name and its `=`, up to where the value begins."""
        name = self._skip(_WRITTEN_NAME)
        if not name:
            raise self._error("a name must stand here: begin it with a letter or an underscore")
        self._skip(_BLANKS)
        if not self._take("="):
            raise self._error(f"= is missing behind {name[:40]}: put a value that holds blanks in quotes")
        self._skip(_BLANKS)
        return name.upper()

    def _value(self, bare: re.Pattern[str]) -> str:
        start = self._at
        if self._text[start : start + 1] == '"':
            quoted = _QUOTED.match(self._text, start)
            if quoted is None:
                raise self._error('these quotes are not closed: end the value with "')
            self._at = quoted.end()
            value = quoted[1].replace('\\"', '"').strip(_TRIMMED)
        else:
            value = self._skip(bare)
        if fault := _fault(value):
            self._at = start
            raise self._error(f"the value that begins here {fault}: leave that out")
        return value

    def _take(self, character: str) -> bool:
        if self._text[self._at : self._at + 1] != character:
            return False
        self._at += 1
        return True

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found[0]

    def _error(self, reason: str) -> BadInput:
        before = self._text[: self._at]
        line, column = before.count("\n") + 1, self._at - before.rfind("\n")
        return BadInput(f"the template is wrong in line {line}, column {column}: {reason}")
