"""How a transfer behaves."""

from dataclasses import dataclass, field

from fedmarket.retry import Backoff
from fedmarket.units import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSettings:
    """Limits of one transfer. There is no limit in time on the whole of it, only on silence."""

    part_bytes: int = 16 * MIB
    """What one request asks for."""
    connect_seconds: float = 5.0
    """For a connection: its name, TCP, TLS, and a place in the session's pool."""
    idle_seconds: float = 30.0
    """A source from which no byte came for so long is left. Time in which we ourselves are slow does not count."""
    attempts: int = 6
    """Failures in a row, each with little gained, after which a source is given up."""
    gain_bytes: int = 64 * 1024
    """What a request must have brought for its failure not to count as one more in a row."""
    max_redirects: int = 5
    backoff: Backoff = field(default=Backoff(first_seconds=0.2, longest_seconds=5.0))
    """Waits before a source that has failed is asked again."""
