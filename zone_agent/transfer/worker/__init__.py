"""Bytes are moved by child processes, so that an agent answers while they move (docs/adr/0013)."""
