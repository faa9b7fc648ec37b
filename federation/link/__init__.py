"""A link: one zone following another. Source and sink are state machines without I/O; docs/replication.md.

ring: the last commits of a home, shared by all its followers. source: what a home says on one stream.
sink: what a follower accepts. follow and serve: the loops that connect them to a store and a stream.
"""
