"""Generated stubs: OpenNebula-independent wire formats of proto/, made by hatch_build.py at build time."""
