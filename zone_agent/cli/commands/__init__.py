"""The commands, a module per group: `fedmarket app ...` is in app.py. A module is imported when its group is used."""
