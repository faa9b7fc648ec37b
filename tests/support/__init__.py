"""Real services for tests, and what tests share."""
