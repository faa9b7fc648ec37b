"""The trace of one command: begun only where the OTEL_* variables ask for it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from fedmarket import telemetry
from zone_agent.telemetry.wanted import wanted

EXPORT_SECONDS = 0.7
"""For the spans of one command. A second try would begin later than this, so a collector that is away costs nothing."""
FLUSH_SECONDS = 1.0
PARENT_VARIABLE = "TRACEPARENT"
"""The trace that a script or a pipeline runs the command in, as other tools that know traces are told it."""


@contextmanager
def traced_command(name: str) -> Iterator[None]:
    """Record the spans of a command while the context lasts. Nothing of it, not even a failure, is told to its user."""
    logging.getLogger("zone_agent.telemetry").addHandler(logging.NullHandler())
    protocol = wanted(os.environ).traces
    if protocol is None:
        yield
        return
    from importlib.metadata import version  # noqa: PLC0415 - only where it is asked for

    from zone_agent.telemetry import tracing  # noqa: PLC0415 - as above: OpenTelemetry costs a tenth of a second

    told = tracing.resource("fedmarket-cli", version("fedmarket"), {"process.pid": os.getpid()})
    with (
        tracing.traced(tracing.span_exporter(protocol, EXPORT_SECONDS), told, FLUSH_SECONDS),
        telemetry.span(name, parent=os.environ.get(PARENT_VARIABLE, "")),
    ):
        yield
