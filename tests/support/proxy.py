"""A TCP relay between two zones that can be cut, stalled and healed."""

import socket
import threading
from contextlib import suppress
from types import TracebackType


class Proxy:
    """Relays 127.0.0.1:`port` to a port of this machine. Use as a context."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._forth, self._back = threading.Event(), threading.Event()
        """Set while bytes flow from, and to, whoever dials."""
        self._flow()
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accept()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """End every connection and refuse new ones."""
        _shut(self._listener)
        for each in list(self._sockets):
            _shut(each)
        self._flow()

    def stall(self) -> None:
        """Let connections stand, and new ones be made, and let no byte through: as when packets are dropped."""
        self._forth.clear()
        self._back.clear()

    def mute(self) -> None:
        """Stall one direction: what a dialler says arrives, and no answer comes back."""
        self._back.clear()

    def heal(self) -> None:
        """Relay again; what was held back comes late."""
        self._flow()
        if self._listener.fileno() == -1:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._accept()

    def _accept(self) -> None:
        self._run(self._serve, self._listener)

    def _serve(self, listener: socket.socket) -> None:
        with listener, suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                self._sockets |= {near, far}
                self._run(self._pump, near, far, self._forth)
                self._run(self._pump, far, near, self._back)

    def _flow(self) -> None:
        self._forth.set()
        self._back.set()

    def _pump(self, source: socket.socket, sink: socket.socket, flows: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                flows.wait()
                sink.sendall(data)
        _shut(source)
        _shut(sink)
        self._sockets -= {source, sink}

    def _run(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)  # type: ignore[arg-type]  # one of the two above
        self._threads.append(thread)
        thread.start()


def _shut(each: socket.socket) -> None:
    """End a socket under a thread that waits on it, which a mere close would leave waiting."""
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
