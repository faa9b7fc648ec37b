"""OpenNebula's template text: what it says, what is written is read back, and where an error is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.errors import BadInput
from fedmarket.pb.fedmarket.v1.record_pb2 import Attribute, Pair, Template, Vector
from fedmarket.template import MAX_ATTRIBUTES, check, parse, text_of

NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
CHARACTERS = st.one_of(
    st.sampled_from('\\"#=[],<>]\n\t '),
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"),
)
VALUES = st.text(CHARACTERS, max_size=20).map(lambda text: text.strip(" \t\n")).filter(lambda text: "]]>" not in text)
PAIRS = st.builds(Pair, name=NAMES, value=VALUES)
ATTRIBUTES = st.one_of(
    st.builds(Attribute, name=NAMES, value=VALUES),
    st.builds(lambda name, pairs: Attribute(name=name, vector=Vector(pairs=pairs)), NAMES, st.lists(PAIRS, max_size=4)),
)
TEMPLATES = st.builds(Template, attributes=st.lists(ATTRIBUTES, max_size=6))


@given(TEMPLATES)
def test_what_is_written_is_read_back(template: Template) -> None:
    assert parse(text_of(check(template))) == template


@given(st.text(CHARACTERS, max_size=40))
def test_whatever_is_read_is_a_template_or_a_clear_error(text: str) -> None:
    try:
        template = parse(text)
    except BadInput as error:
        told = "line " in error.message
    else:
        told = parse(text_of(template)) == template
    assert told


def plain(template: Template) -> list[tuple[str, str | dict[str, str]]]:
    return [
        (a.name, a.value if a.WhichOneof("content") == "value" else {pair.name: pair.value for pair in a.vector.pairs})
        for a in template.attributes
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('A = "value"', [("A", "value")]),
        ("A = bareword", [("A", "bareword")]),
        ("A =", [("A", "")]),
        ("A =\nB = 1", [("A", ""), ("B", "1")]),
        ("lower_1=x", [("LOWER_1", "x")]),
        ('A = " two words "', [("A", "two words")]),
        (r'A = "say \"hello\""', [("A", 'say "hello"')]),
        (r'A = "C:\dir"', [("A", r"C:\dir")]),
        ('A = "two\nlines"', [("A", "two\nlines")]),
        ('A = "two\r\nlines"\r\nB = 1\r\n', [("A", "two\nlines"), ("B", "1")]),
        ("# a comment\nA = 1 # and another\n  # B = 2\n", [("A", "1")]),
        ("A = http://h/?a=b,c", [("A", "http://h/?a=b,c")]),
        ("A = 1\nA = 2", [("A", "1"), ("A", "2")]),
        ('D = [ K1 = "v 1", K2 = v2 ]', [("D", {"K1": "v 1", "K2": "v2"})]),
        ("D=[K=]", [("D", {"K": ""})]),
        ("D = [\n  K1 = 1,\n  # none\n  K2 = 2\n]\nE = 3", [("D", {"K1": "1", "K2": "2"}), ("E", "3")]),
        ("D = [ ]", [("D", {})]),
        ("", []),
        ("\n # nothing\n", []),
    ],
)
def test_texts_say_what_they_say_in_opennebula(text: str, says: object) -> None:
    assert plain(parse(text)) == says


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("A", "line 1, column 2", "= is missing"),
        ("A = two words", "line 1, column 14", "= is missing"),
        ("\n\n  1A = x", "line 3, column 3", "a name must stand here"),
        ('A = 1\nB = "open\n', "line 2, column 5", "not closed"),
        ("D = [ A = 1 B = 2 ]", "line 1, column 13", "a comma or ]"),
        ("D = [ A = 1,", "line 1, column 13", "a name must stand here"),
        ("D = [ A = 1", "line 1, column 12", "a comma or ]"),
        ('A = "x ]]> y"', "line 1, column 5", "]]>"),
        ('A = "\x1b[2J"', "line 1, column 5", "control characters"),
        ("<TEMPLATE/>", "line 1, column 1", "XML"),
    ],
)
def test_an_error_names_its_place(text: str, place: str, reason: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse(text)
    assert place in refused.value.message
    assert reason in refused.value.message


def test_a_long_value_is_read_at_once() -> None:
    value = 'QUJD\\"x' * 40_000
    assert len(parse(f'A = "{value}"').attributes[0].value) == 6 * 40_000
    with pytest.raises(BadInput, match="not closed"):
        parse(f'A = "{value}')


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (Template(attributes=[Attribute(name="lower", value="")]), "'lower' is no attribute name"),
        (Template(attributes=[Attribute(name="1A", value="")]), "'1A' is no attribute name"),
        (Template(attributes=[Attribute(name="A")]), "A has no value"),
        (Template(attributes=[Attribute(name="A", value="a\rb")]), "control characters"),
        (Template(attributes=[Attribute(name="A", value="]]>")]), "]]>"),
        (Template(attributes=[Attribute(name="A", vector=Vector(pairs=[Pair(name="k")]))]), "'k' is no attribute name"),
        (Template(attributes=[Attribute(name="A", value="")] * (MAX_ATTRIBUTES + 1)), "over 1024"),
    ],
)
def test_what_a_form_cannot_hold_is_refused(template: Template, reason: str) -> None:
    with pytest.raises(BadInput) as refused:
        check(template)
    assert reason in refused.value.message
