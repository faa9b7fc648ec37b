"""What an agent and the command tell of themselves: traces, metrics, logs. docs/telemetry.md, docs/adr/0012."""
