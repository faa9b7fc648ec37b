"""What holds for every test."""

import signal

# A shell that runs the tests in the background makes them ignore SIGINT, and so all that they start: tests that
# interrupt a command would wait for ever. Handled here, it is back to its default in every child.
signal.signal(signal.SIGINT, signal.default_int_handler)
