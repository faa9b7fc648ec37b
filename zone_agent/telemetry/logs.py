"""What an agent says on stderr: text for people, or one JSON object per line for what collects logs."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from fedmarket import telemetry
from zone_agent.config.schema import LogSettings

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure(settings: LogSettings) -> None:
    """Let this process log as the settings say, from now on; may be called again."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.format == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


class JsonLines(logging.Formatter):
    """One object per line: time (RFC 3339, UTC), level, logger, message; of a traced call trace_id and span_id.

    An exception is the field `exception`, with its traceback. Names as OpenTelemetry's log data model has them.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        context = telemetry.parse(telemetry.traceparent())
        if context is not None:
            line["trace_id"], line["span_id"] = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, ensure_ascii=False)
