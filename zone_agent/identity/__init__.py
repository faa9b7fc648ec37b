"""Who is asking: from what a client sends to a principal."""
