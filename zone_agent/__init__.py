"""zone_agent: what a zone runs: faces, services, transfer and the composition root."""
