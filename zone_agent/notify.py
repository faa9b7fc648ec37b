"""Telling the service manager what the agent does: systemd's notification protocol, sd_notify(3)."""

import logging
import os
import socket

log = logging.getLogger(__name__)

VARIABLE = "NOTIFY_SOCKET"


def notify(state: str) -> None:
    """Say `READY=1` or `STOPPING=1` to who started the agent, if that is a service manager which wants to know.

    The agent runs on if it cannot be told.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path  # an address of Linux's abstract namespace
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto(state.encode(), address)
        except OSError as error:
            log.warning("the service manager could not be told %s: %s", state, error)
