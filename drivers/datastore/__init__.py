"""Datastore drivers: where a zone's images are kept."""
