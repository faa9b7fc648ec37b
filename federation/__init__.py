"""federation: the catalog of each zone, its store, its view, and how peers follow it."""
