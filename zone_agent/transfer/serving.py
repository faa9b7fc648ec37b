"""A file as an HTTP response: whole or one range of it, by sendfile.

aiohttp's FileResponse does the work. It reads the request's headers itself, and in three places not as RFC 9110 wants
or as stored blobs need; so it is given only those that it may honour.
"""

import asyncio
import logging
import os
import re
import stat
from pathlib import Path
from typing import Self

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from fedmarket.errors import NotFound, Unavailable
from zone_agent.telemetry.instruments import BYTES

log = logging.getLogger(__name__)

_SERVED = BYTES.labels("out", "blob")
_ONE_RANGE = re.compile(r"bytes=([0-9]+-[0-9]*|-0*[1-9][0-9]*)", re.ASCII | re.IGNORECASE)


class BlobResponse(web.FileResponse):
    """Serves one blob with ETag, ranges and conditions, never in another encoding."""

    def __init__(self, path: Path, info: os.stat_result) -> None:
        super().__init__(
            path,
            headers={
                hdrs.CONTENT_TYPE: "application/octet-stream",
                # A proxy between the zones must neither keep the bytes for others nor compress them.
                hdrs.CACHE_CONTROL: "private, no-transform",
                "X-Content-Type-Options": "nosniff",
            },
        )
        self._validator = f'"{info.st_mtime_ns:x}-{info.st_size:x}"'

    @classmethod
    async def of(cls, path: Path) -> Self:
        """Look at the file. Raises NotFound if it is no file, Unavailable if it cannot be looked at."""
        try:
            info = await asyncio.to_thread(path.stat)
        except (FileNotFoundError, NotADirectoryError):
            raise _not_there() from None
        except OSError as error:
            raise Unavailable(
                f"the blob cannot be read at the zone ({error.strerror}): have its market's directory checked there"
            ) from error
        if not stat.S_ISREG(info.st_mode):
            raise _not_there()
        return cls(path, info)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the headers, and the bytes."""
        try:
            writer = await super().prepare(request.clone(headers=self._honoured(request)))
        except TimeoutError:  # the kernel's: TCP_USER_TIMEOUT
            log.info("reader %s took no byte for too long and is cut off", request.remote)
            raise ConnectionAbortedError from None  # which aiohttp takes for what it is: the client's end
        if request.method == hdrs.METH_GET:
            _SERVED.inc(self.content_length or 0)
        return writer

    def _honoured(self, request: web.BaseRequest) -> CIMultiDict[str]:
        headers = CIMultiDict(request.headers)
        # With it FileResponse would answer with `<name>.gz`, if that is there: here it is another blob.
        headers.popall(hdrs.ACCEPT_ENCODING, None)
        condition = headers.get(hdrs.IF_RANGE)
        # FileResponse knows only dates here, and takes any other condition for none: it would send a part of a blob
        # that has changed.
        changed = condition is not None and condition != self._validator and request.if_range is None
        # Several ranges, or another unit, may be ignored; FileResponse would refuse them.
        if changed or not _ONE_RANGE.fullmatch(headers.get(hdrs.RANGE, "")):
            headers.popall(hdrs.RANGE, None)
        return headers


def _not_there() -> NotFound:
    return NotFound("there is no such blob here any more: ask the zone where it is now")
