"""The exit statuses of a command that a signal, or the end of its reader, has ended."""

import signal

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
READER_GONE = 128 + signal.SIGPIPE

SIGNALS = {
    INTERRUPTED: "interrupted (Ctrl-C); a job that had begun goes on in the agent",
    TERMINATED: "terminated",
    READER_GONE: "whoever read the output has gone",
}
