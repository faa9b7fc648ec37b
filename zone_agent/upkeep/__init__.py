"""Upkeep: what an agent looks after by itself, again and again, and what it tells a person to look after."""
