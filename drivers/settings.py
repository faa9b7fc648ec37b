"""Attributes of a market or datastore whose meaning is the same in every driver."""

from pathlib import Path
from urllib.parse import urlsplit

from fedmarket.errors import BadInput

_NOT_IN_URLS = frozenset(' "<>\\^`{|}')  # RFC 3986 leaves them out; some readers take a backslash for a slash


def absolute_directory(name: str, value: str) -> Path:
    """Return the directory that attribute `name` gives. Raises BadInput unless it is an absolute path."""
    path = Path(value)
    if not value.isprintable() or not path.is_absolute() or ".." in path.parts:
        raise BadInput(f"{name} {value!r} is not an absolute path: give a directory like /srv/market, without '..'")
    return path


def web_url(name: str, value: str) -> str:
    """Return the URL that attribute `name` gives, without a slash at its end.

    Raises BadInput unless it is http or https, with a host, and without credentials, query or fragment: it is shown
    to everybody who may see the market, and object names are appended to it.
    """
    example = "give one like http://images.example.org/market"
    try:
        url = urlsplit(value)
        plain = value.isascii() and value.isprintable() and not _NOT_IN_URLS.intersection(value)
        usable = plain and url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is no number, an unclosed bracket
        usable = False
    if not usable:
        raise BadInput(f"{name} is not an http or https URL with a host: {example}")
    if "@" in url.netloc:
        raise BadInput(f"{name} holds a user or password, which everybody could read: {example}")
    if "?" in value or "#" in value:
        raise BadInput(f"{name} holds a query or a fragment, to which no object name can be appended: {example}")
    return value.rstrip("/")
