import re

from fedmarket.errors import EXIT_CODES
from zone_agent.cli.man import man_page
from zone_agent.cli.tree import groups

KNOWN = {".TH", ".SH", ".SS", ".B", ".TP", ".PP", ".RS", ".RE"}


def test_the_page_has_its_sections_in_order_and_every_command() -> None:
    page = man_page()

    sections = re.findall(r"^\.SH (.*)$", page, re.MULTILINE)
    assert sections == [
        "NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "EXIT STATUS", "ENVIRONMENT", "FILES",
    ]  # fmt: skip
    for group in groups():
        for command in group.commands:
            assert f".B {command.usage}".replace("-", "\\-") in page
    statuses = page[page.index(".SH EXIT STATUS") : page.index(".SH ENVIRONMENT")]
    assert statuses.count(".TP") == len(EXIT_CODES) + 3


def test_no_text_can_be_taken_for_a_request() -> None:
    lines = man_page().splitlines()

    assert all(line.split()[0] in KNOWN for line in lines[1:] if line.startswith((".", "'")))
    assert lines[0].startswith('.\\"')
    assert all(lines)  # an empty line is a paragraph of unknown height
    opened = [line for line in lines if line in {".RS", ".RE"}]
    assert opened == [".RS", ".RE"] * (len(opened) // 2)
