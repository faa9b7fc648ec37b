"""A web server that publishes a directory, as an operator would put one in front of PUBLIC_DIR."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any


class WebServer(http.server.ThreadingHTTPServer):
    """Python's own server, which answers no ranges; it remembers the paths that it was asked for."""

    def __init__(self, directory: Path) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(directory)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, WebServer)
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(directory: Path) -> Iterator[WebServer]:
    """Publish a directory at a free port of loopback."""
    with WebServer(directory) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def web_server(directory: Path) -> Iterator[str]:
    """Publish a directory, and give the URL only."""
    with serving(directory) as server:
        yield server.url
