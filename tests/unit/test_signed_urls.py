"""Signed URLs of blobs: exactly what was signed, for as long as was said, and nothing else."""

import hashlib
import hmac
from collections.abc import Callable
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.errors import Denied
from zone_agent.transfer.signing import UrlSigner

NOW = 1_800_000_000.25
SECRET = bytes(range(32))
OBJECT = "9f86d081884c7d65-1"
Parts = tuple[int, str, int, str]


def signer(now: float = NOW, secret: bytes = SECRET) -> UrlSigner:
    return UrlSigner(secret, lambda: now)


def parts(url: str) -> Parts:
    split = urlsplit(url)
    _, _, market, object_name = split.path.split("/")
    query = parse_qs(split.query, strict_parsing=True)
    return int(market), unquote(object_name), int(query["expires"][0]), query["sig"][0]


def signed() -> Parts:
    return parts(signer().sign("http://berlin:7633", 100, OBJECT, 60))


def test_a_url_has_the_documented_form() -> None:
    url = signer().sign("https://berlin:7633/", 100, OBJECT, 60)
    # The text under the signature, independently of the code: it is a format between agents.
    text = f"fedmarket-blob-url-1\n100\n1800000061\n{OBJECT}".encode()
    sig = hmac.new(SECRET, text, hashlib.sha256).hexdigest()
    assert url == f"https://berlin:7633/blobs/100/{OBJECT}?expires=1800000061&sig={sig}"


def test_what_was_signed_is_accepted() -> None:
    signer().verify(*signed())


def test_another_agent_of_the_zone_accepts_it_too() -> None:
    UrlSigner(SECRET, lambda: NOW + 30).verify(*signed())


def test_another_zone_does_not() -> None:
    with pytest.raises(Denied, match="not valid"):
        signer(secret=bytes(32)).verify(*signed())


def test_it_lasts_as_long_as_was_said_and_no_longer() -> None:
    signer(NOW + 60).verify(*signed())
    with pytest.raises(Denied, match="has expired: ask the zone for a new one"):
        signer(NOW + 60.75).verify(*signed())


TAMPERED: dict[str, Callable[[Parts], Parts]] = {
    "another market": lambda p: (p[0] + 1, p[1], p[2], p[3]),
    "another object": lambda p: (p[0], p[1] + "0", p[2], p[3]),
    "a longer life": lambda p: (p[0], p[1], p[2] + 1, p[3]),
    "a shorter life": lambda p: (p[0], p[1], p[2] - 1, p[3]),
    "a digit of the market moved into the expiry": lambda p: (p[0] // 10, p[1], p[2] * 10 + p[0] % 10, p[3]),
    "no signature": lambda p: (p[0], p[1], p[2], ""),
    "part of the signature": lambda p: (p[0], p[1], p[2], p[3][:-1]),
    "a longer signature": lambda p: (p[0], p[1], p[2], p[3] + "0"),
    "the signature in capitals": lambda p: (p[0], p[1], p[2], p[3].upper()),
    "a signature beyond ASCII": lambda p: (p[0], p[1], p[2], "é" * 64),
    "a signature that is no text": lambda p: (p[0], p[1], p[2], "\udcff" * 64),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_what_was_tampered_with_is_refused(how: str) -> None:
    with pytest.raises(Denied, match="not valid"):
        signer().verify(*TAMPERED[how](signed()))


def test_a_signature_of_one_object_does_not_serve_for_another() -> None:
    market, _, expires, sig = signed()
    other = parts(signer().sign("http://berlin:7633", market, "other", 60))
    with pytest.raises(Denied, match="not valid"):
        signer().verify(market, "other", expires, sig)
    with pytest.raises(Denied, match="not valid"):
        signer().verify(market, OBJECT, other[2], other[3])


def test_an_expired_forgery_is_called_a_forgery() -> None:
    market, object_name, expires, _ = signed()
    with pytest.raises(Denied, match="not valid"):
        signer(NOW + 1000).verify(market, object_name, expires, "0" * 64)


def test_refusals_hold_no_signature() -> None:
    valid = signed()
    for attempt in (valid, (valid[0], "other", valid[2], valid[3])):
        with pytest.raises(Denied) as refused:
            signer(NOW + 1000).verify(*attempt)
        assert valid[3] not in str(refused.value)


anything = st.text(max_size=12) | st.text(alphabet="0123456789\n/.-", max_size=12)
triples = st.tuples(st.integers(0, 2**31 - 1), anything, st.integers(1, 2**40))


@given(triples, triples)
def test_no_two_triples_share_a_signature(one: tuple[int, str, int], other: tuple[int, str, int]) -> None:
    def sig(market: int, object_name: str, expires: int) -> str:
        return parts(UrlSigner(SECRET, lambda: 0.0).sign("http://z", market, object_name, expires))[3]

    assert (sig(*one) == sig(*other)) == (one == other)


@given(triples)
def test_every_name_survives_the_way_through_a_url(triple: tuple[int, str, int]) -> None:
    market, object_name, lifetime = triple
    url = signer().sign("http://z", market, object_name, lifetime)
    assert url.isascii()
    assert url.isprintable()
    assert parts(url)[:2] == (market, object_name)
    signer().verify(*parts(url))
