"""The model test: zones that follow each other under everything that can happen, held against what was committed.

Sources, sinks, links, catalogs, writers and restorers are the real ones; stores, wires and time are simulated.
`python -m tests.simulation` tries more.
"""
