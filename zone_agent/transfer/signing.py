"""Signed, expiring URLs of blobs: `<base>/blobs/<market id>/<object>?expires=<unix seconds>&sig=<hex HMAC-SHA256>`.

All agents of a zone derive the same secret from the zone's key, so each of them serves what another has signed. The
method is not part of what is signed: whoever may GET a blob may ask for its HEAD.
"""

import hashlib
import hmac
import math
from collections.abc import Callable
from urllib.parse import quote

from fedmarket.errors import Denied

VERSION = "fedmarket-blob-url-1"
"""First line of the signed text: another form of URL gets another tag, so that no signature is valid for both."""


class UrlSigner:
    """Makes and checks the URLs of one zone. `clock` gives Unix seconds."""

    def __init__(self, secret: bytes, clock: Callable[[], float]) -> None:
        self._secret = secret
        self._clock = clock

    def sign(self, base_url: str, market_id: int, object_name: str, lifetime_seconds: float) -> str:
        """Return a URL of the object, below the agent's own `base_url`, that can be used for `lifetime_seconds`.

        Whoever holds it can read the object: it is never stored or logged.
        """
        expires = math.ceil(self._clock() + lifetime_seconds)
        sig = self._signature(market_id, object_name, expires)
        path = f"/blobs/{market_id}/{quote(object_name, safe='')}"
        return f"{base_url.rstrip('/')}{path}?expires={expires}&sig={sig}"

    def verify(self, market_id: int, object_name: str, expires: int, sig: str) -> None:
        """Raise Denied unless this zone signed exactly this, and it has not expired."""
        expected = self._signature(market_id, object_name, expires)
        # As bytes: compare_digest takes no text beyond ASCII, and what a client sends may be any.
        if not hmac.compare_digest(expected.encode(), sig.encode(errors="backslashreplace")):
            raise Denied("the signature of this URL is not valid: ask the zone for a new URL")
        if self._clock() >= expires:
            raise Denied("this URL has expired: ask the zone for a new one")

    def _signature(self, market_id: int, object_name: str, expires: int) -> str:
        # The one part that is free text stands last: no two triples give the same text.
        text = f"{VERSION}\n{market_id}\n{expires}\n{object_name}"
        return hmac.new(self._secret, text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()
