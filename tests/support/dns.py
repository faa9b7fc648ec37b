"""A name server for tests in which names come to stand for other addresses."""

import socket
import struct
import threading
from types import TracebackType
from typing import Self

_ADDRESS, _INTERNET = 1, 1  # type A, class IN
_ANSWER = 0x8180
"""Flags: a response, recursion available, no error."""


class NameServer:
    """Answers 127.0.0.1:`port` over UDP from `addresses`, for IPv4 (RFC 1035). Use as a context."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.sendto(b"", self._socket.getsockname())  # the last one
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            if not query:
                return
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode())
            at += 1 + length
        question = query[12 : at + 5]
        kind, _ = struct.unpack(">HH", question[-4:])
        address = self.addresses.get(".".join(labels)) if kind == _ADDRESS else None
        header = query[:2] + struct.pack(">HHHHH", _ANSWER, 1, 1 if address else 0, 0, 0)
        if address is None:
            return header + question
        pointer = b"\xc0\x0c"  # to the name in the question
        record = struct.pack(">HHIH", _ADDRESS, _INTERNET, 0, 4) + socket.inet_aton(address)
        return header + question + pointer + record
