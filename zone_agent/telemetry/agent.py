"""The telemetry of an agent's process: its logs as zone.toml says, the rest as the OTEL_* variables do."""

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING

from zone_agent.config import Config
from zone_agent.config.schema import LogSettings
from zone_agent.supervise import Part
from zone_agent.telemetry import logs
from zone_agent.telemetry.scrape import Live
from zone_agent.telemetry.wanted import wanted

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

log = logging.getLogger(__name__)

SERVICE = "fedmarket-agent"
FLUSH_SECONDS = 3.0
"""For the last spans, when the agent stops."""


@contextmanager
def observed_agent(config: Config, settings: LogSettings) -> Iterator[None]:
    """Log, and record spans if they are asked for, while the context lasts."""
    logs.configure(settings)
    with _traced(config):
        yield


def _traced(config: Config) -> AbstractContextManager[None]:
    protocol = wanted(os.environ).traces
    if protocol is None:
        return nullcontext()
    from zone_agent.telemetry import tracing  # noqa: PLC0415 - only who asks for it pays for it

    try:
        exporter = tracing.span_exporter(protocol)
    except Exception:  # a library's judgement of its own variables: an agent does not stop for them
        log.exception("spans cannot be exported as the OTEL_* variables say: the agent runs without")
        return nullcontext()
    return tracing.traced(exporter, told(config), FLUSH_SECONDS)


def metrics_pusher(config: Config, live: Live) -> Part | None:
    """Return the part of an agent that sends its metrics; None unless the OTEL_* variables ask for it."""
    protocol = wanted(os.environ).metrics
    if protocol is None:
        return None
    from zone_agent.telemetry import push  # noqa: PLC0415 - as above

    try:
        return push.Pusher(push.metric_exporter(protocol), told(config), live).run
    except Exception:  # as above
        log.exception("metrics cannot be exported as the OTEL_* variables say: the agent runs without")
        return None


def told(config: Config) -> "Resource":
    """Say who exports."""
    from zone_agent.telemetry.tracing import resource  # noqa: PLC0415 - as above

    zone = config.zone
    return resource(SERVICE, version("fedmarket"), {"fedmarket.zone.id": zone.id, "fedmarket.zone.name": zone.name})
