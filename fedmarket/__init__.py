"""fedmarket: the small floor that every other package stands on. No I/O."""
