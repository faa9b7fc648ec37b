"""The dates of the certificates that zone.toml names, watched so that none ends unnoticed.

The agent's own certificates for peers are not among them: it makes one for each new connection, which lives for a day.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from fedmarket.threads import in_thread
from zone_agent.config import Config
from zone_agent.upkeep.alarms import Alarms

SOURCE = "certificates"
WARN = timedelta(days=21)
"""Before the end: time to have one signed by people. Of a certificate that lives for less than three times as long,
the last third of its life."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A file of certificates, and where zone.toml names it."""

    setting: str
    file: Path
    authorities: bool = False
    """It holds authorities to trust, of which old ones may well have ended; else a chain, of which none may."""


def watched(config: Config) -> list[Watched]:
    """Return the files of certificates that are set."""
    files = [
        ("[http] tls_cert", config.http.tls_cert, False),
        ("[grpc] tls_cert", config.grpc.tls_cert, False),
        ("[etcd] tls_cert", config.etcd.tls_cert, False),
        ("[etcd] tls_ca", config.etcd.tls_ca, True),
    ]
    return [Watched(setting, file, authorities) for setting, file, authorities in files if file is not None]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Certificates:
    """Looks at the files anew each time, because whoever renews a certificate puts another one in its place."""

    def __init__(
        self, files: Callable[[], list[Watched]], alarms: Alarms, clock: Callable[[], datetime] = _utc_now
    ) -> None:
        self._files = files
        self._alarms = alarms
        self._clock = clock

    async def look(self) -> None:
        """Say by alarms which certificates end soon, have ended, or cannot be read."""
        self._alarms.report(SOURCE, await in_thread(self._sentences))

    def _sentences(self) -> Mapping[str, str]:
        now = self._clock()
        found = {each.setting: _sentence(each, now) for each in self._files()}
        return {setting: sentence for setting, sentence in found.items() if sentence}


def _sentence(each: Watched, now: datetime) -> str:
    """Return what is wrong with a file; nothing: all is well. Blocking."""
    where = f"the certificate in {each.file} ({each.setting})"
    try:
        choose = max if each.authorities else min
        first, last = choose(_lives(each.file), key=lambda life: life[1])
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no certificate in PEM"
        return f"{where} cannot be read ({reason}): the agent will not start with it, so put a good one there"
    date = f"{last:%Y-%m-%d %H:%M} UTC"
    take_up = "restart the agent" if each.setting.startswith("[etcd]") else "reload the agent (SIGHUP)"
    renew = f"put a new one there, and {take_up}"
    if now >= last:
        return f"{where} has ended, on {date}: {renew}"
    if now >= last - min(WARN, (last - first) / 3):
        return f"{where} ends on {date}, in {(last - now).days} days: {renew}"
    return ""


def _lives(file: Path) -> Iterator[tuple[datetime, datetime]]:
    """Yield when each certificate in a file begins and ends. Raises OSError, ValueError."""
    for certificate in x509.load_pem_x509_certificates(file.read_bytes()):
        yield certificate.not_valid_before_utc, certificate.not_valid_after_utc
