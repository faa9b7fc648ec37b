"""What the standard OTEL_* variables ask for, read without OpenTelemetry: only who asks for it has it imported.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. One default differs, because nobody
must pay for what he did not ask for: where neither an exporter nor an endpoint is named, nothing is exported.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

log = logging.getLogger(__name__)

Protocol = Literal["grpc", "http/protobuf"]

_OTLP = "otlp"
_NONE = "none"
_PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http/protobuf")
_SIGNALS = ("TRACES", "METRICS")


@dataclass(frozen=True, slots=True)
class Wanted:
    """How each signal is to be exported; None: not at all."""

    traces: Protocol | None = None
    metrics: Protocol | None = None


def wanted(environ: Mapping[str, str]) -> Wanted:
    """Read the variables. What is not understood is logged and left out: telemetry stops no agent."""
    if _of(environ, "OTEL_SDK_DISABLED").lower() == "true":
        return Wanted()
    return Wanted(*(_protocol(environ, signal) for signal in _SIGNALS))


def _protocol(environ: Mapping[str, str], signal: str) -> Protocol | None:
    endpoint = _of(environ, f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    chosen = _of(environ, f"OTEL_{signal}_EXPORTER").lower() or (_OTLP if endpoint else _NONE)
    if chosen == _NONE:
        return None
    if chosen != _OTLP:
        log.warning("OTEL_%s_EXPORTER=%.20s is not known here: say %s or %s", signal, chosen, _OTLP, _NONE)
        return None
    asked = _of(environ, f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") or _PROTOCOLS[0]
    for protocol in _PROTOCOLS:
        if asked == protocol:
            return protocol
    log.warning("the OTLP protocol %.20s is not known here: say %s", asked, " or ".join(_PROTOCOLS))
    return None


def _of(environ: Mapping[str, str], *names: str) -> str:
    """Return the first of the variables that is set; one that is empty is not, as the specification says."""
    return next((value for name in names if (value := environ.get(name, "").strip())), "")
