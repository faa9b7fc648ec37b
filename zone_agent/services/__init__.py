"""Every use case once: what the faces call, whatever their wire."""
