"""One ranged GET, taken at its word: exactly the bytes that were asked for, or a Fault that says what came instead.

HTTP's rules are RFC 9110: ranges in section 14, redirects in 15.4.
"""

import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urljoin

import aiohttp
from aiohttp import hdrs
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from fedmarket.errors import Corrupt, Timeout
from zone_agent.transfer.settings import TransferSettings
from zone_agent.transfer.source import Fault, Source, parse_url

READ_BUFFER = 512 * 1024
"""Bytes. The connection is paused while twice as much waits to be taken."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRY_AGAIN = frozenset({408, 425, 429})
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.ASCII | re.IGNORECASE)


async def read_range(
    session: aiohttp.ClientSession, source: Source, start: int, end: int, size: int, settings: TransferSettings
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes from `start` of a blob of `size` bytes: up to `end`, or less if the source gives less.

    A source that ignores ranges answers with the whole blob. Then the bytes before `start` are passed over, and those
    behind `end` are yielded too, because they are there. Raises Fault after what was good, and Changed.
    """
    try:
        async with _get(session, source, f"bytes={start}-{end - 1}", settings) as response:
            position, stop = _span(response, start, end, size)
            source.see(response.headers.get(hdrs.ETAG) or response.headers.get(hdrs.LAST_MODIFIED))
            async for data in response.content.iter_any():
                fresh = data[max(0, start - position) : stop - position]
                position += len(data)
                if fresh:
                    yield fresh
                if position > stop:
                    raise Fault("sent more bytes than it had announced")
            if position < stop:
                raise Fault("ended too early")
    except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
        # Without the error itself: its text and its context may hold the URL.
        raise _fault(error, settings) from None


@asynccontextmanager
async def _get(
    session: aiohttp.ClientSession, source: Source, wanted: str, settings: TransferSettings
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Ask, following redirects ourselves: each keeps the Range, and its URL is left as it is."""
    url = source.url
    timeout = aiohttp.ClientTimeout(
        connect=settings.connect_seconds, sock_connect=settings.connect_seconds, sock_read=settings.idle_seconds
    )
    for _ in range(settings.max_redirects + 1):
        async with session.get(
            url,
            headers={hdrs.RANGE: wanted, hdrs.ACCEPT_ENCODING: "identity"},
            allow_redirects=False,
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            timeout=timeout,
        ) as response:
            if response.status not in _REDIRECTS:
                yield response
                return
            url = _redirected(response)
    raise Fault(f"redirects more than {settings.max_redirects} times", hopeless=True)


def _redirected(response: aiohttp.ClientResponse) -> URL:
    try:
        return parse_url(urljoin(str(response.url), response.headers.get(hdrs.LOCATION, "")))
    except (Fault, ValueError):
        raise Fault("redirects to what is no http or https URL", hopeless=True) from None


def _span(response: aiohttp.ClientResponse, start: int, end: int, size: int) -> tuple[int, int]:
    """Return the first byte of a response and the one behind its last. Raises Fault if they are not what was asked."""
    _check_status(response.status, size)
    encoding = response.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower()
    if encoding != "identity":
        raise Fault(f"sends the bytes in another encoding ({encoding[:20]!r}) than they are stored in", hopeless=True)
    length = response.content_length
    if response.status == 200:
        if length not in {None, size}:
            raise _wrong_size(length, size)
        return 0, size
    match = _CONTENT_RANGE.fullmatch(response.headers.get(hdrs.CONTENT_RANGE, "").strip())
    if match is None:
        raise Fault("answers a range without saying which one it is (Content-Range)", hopeless=True)
    first, stop, total = int(match[1]), int(match[2]) + 1, match[3]
    if total not in {"*", str(size)}:
        raise _wrong_size(int(total), size)
    if first != start or not first < stop <= end or length not in {None, stop - first}:
        raise Fault(f"answers bytes {first} to {stop - 1} where {start} to {end - 1} were asked for", hopeless=True)
    return first, stop


def _check_status(status: int, size: int) -> None:
    if status in {200, 206}:
        return
    if status == 416:
        raise Fault(f"holds less than the {size} bytes of the record", cause=Corrupt, hopeless=True)
    if status >= 500 or status in _TRY_AGAIN:
        raise Fault(f"answered with an error ({status})")
    if status in {401, 403}:
        raise Fault(f"refused the read ({status}), perhaps because its URL has expired", hopeless=True)
    if status in {404, 410}:
        raise Fault(f"does not hold the blob ({status})", hopeless=True)
    raise Fault(f"answered with status {status}", hopeless=True)


def _wrong_size(held: int | None, size: int) -> Fault:
    return Fault(f"holds {held} bytes where the record says {size}", cause=Corrupt, hopeless=True)


def _fault(error: Exception, settings: TransferSettings) -> Fault:
    """Return what went wrong on the way, in our own words."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return Fault(f"accepted no connection within {settings.connect_seconds:g} s", cause=Timeout)
        case TimeoutError():
            return Fault(f"sent no byte for {settings.idle_seconds:g} s", cause=Timeout)
        case aiohttp.ClientConnectorDNSError():
            return Fault("has a name that does not resolve")
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return Fault("could not be connected to by TLS, because its certificate is not trusted or it speaks no TLS")
        case aiohttp.ClientConnectorError():
            return Fault(f"could not be connected to ({error.strerror or 'no reason given'})")
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | OSError():
            return Fault("cut the connection")
        case _:
            return Fault("does not speak HTTP as it should")
