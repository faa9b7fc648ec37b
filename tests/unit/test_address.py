import socket

import pytest

from fedmarket.errors import BadInput
from zone_agent.address import Address


@pytest.mark.parametrize("text", ["127.0.0.1:7634", "[::1]:7634", "berlin.example.org:1", "a_b-c:65535", "x:0"])
def test_an_address_reads_as_it_is_written(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "host", ":1", "host:", "host:x", "host:65536", "::1:7634", "[::1]", "[host]:1", "[:::1]:1", "a b:1", "h:1\n",
     "http://h:1", "h:١", "h:-1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="is not an address"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [("127.0.0.1:1", True), ("127.9.9.9:1", True), ("[::1]:1", True), ("localhost:1", True), ("0.0.0.0:1", False),
     ("[::]:1", False), ("192.0.2.1:1", False), ("localhost.example.org:1", False)],
)  # fmt: skip
def test_only_this_machine_reaches_a_loopback_address(text: str, loopback: bool) -> None:
    assert Address.parse(text).is_loopback is loopback


def test_others_are_told_a_name_in_place_of_a_wildcard() -> None:
    assert Address.parse("0.0.0.0:7").dialable() == Address(socket.gethostname(), 7)
    assert Address.parse("[::]:7").dialable() == Address(socket.gethostname(), 7)
    assert Address.parse("192.0.2.1:0").with_port(9).dialable() == Address("192.0.2.1", 9)
