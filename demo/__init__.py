"""The demo: two zones on this machine share a marketplace, driven by the `fedmarket` command as a user would.

Read `story.py` first: it is the whole tour of what fedmarket does today. `make demo` runs it.
"""
