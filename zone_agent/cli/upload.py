"""Sending a file of this machine to the agent."""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import grpc

from fedmarket.errors import BadInput, FedmarketError, OutcomeUnknown, Unavailable
from fedmarket.pb.fedmarket.v1.image_pb2 import Image, ImportImageRequest, ImportStart
from fedmarket.pb.fedmarket.v1.image_pb2_grpc import ImageServiceStub
from zone_agent.cli.progress import Progress, progress
from zone_agent.cli.session import LifeSigns, Session

BLOCK = 1 << 20


def upload(session: Session, path: Path, start: ImportStart) -> Image:
    """Stream a file or block device into a datastore; `start` says where to and as what.

    Raises BadInput if it cannot be read, is empty, or changes meanwhile: the call is then cancelled before its last
    block, so that the agent keeps nothing of it.
    """
    with _open(path) as file, progress(f"sending {path.name}") as report:
        life = LifeSigns()
        sending = _Sending(path, file, start, life, report)
        call = session.stub(ImageServiceStub).Import.future(sending.messages(), metadata=session.metadata)
        try:
            with session.listening(call, life, change=True):
                if call.code() is not grpc.StatusCode.OK:
                    raise cast(grpc.RpcError, call)  # a call that failed is its own error
                return call.result()
        except FedmarketError as error:
            # What went wrong here made the call fail, and says more than the failed call does.
            if sending.error is not None:
                raise sending.error from None
            if isinstance(error, OutcomeUnknown) and not sending.complete:
                raise Unavailable(
                    f"the agent at {session.connection.address} took no more of {path}, so nothing was imported: "
                    "look at its log, and try again"
                ) from None
            raise


class _Sending:
    """The messages of one import. gRPC takes them in a thread of its own, one after the other."""

    def __init__(self, path: Path, file: BinaryIO, start: ImportStart, life: LifeSigns, report: Progress) -> None:
        self.error: BadInput | None = None
        self.complete = False
        """Whether the last block was handed over: before that, the agent can have made nothing of it."""
        self._path = path
        self._file = file
        self._start = start
        self._life = life
        self._report = report
        self._size = _size(path, file)
        self._stamp = _stamp(file)

    def messages(self) -> Iterator[ImportImageRequest]:
        try:
            self._start.size_bytes = self._size
            self._start.path = str(self._path)
            yield ImportImageRequest(start=self._start)
            yield from self._blocks()
        except BadInput as error:
            self.error = error
            raise  # gRPC cancels the call

    def _blocks(self) -> Iterator[ImportImageRequest]:
        began = time.monotonic()
        sent = 0
        while sent < self._size:
            block = self._read(min(BLOCK, self._size - sent))
            sent += len(block)
            if sent == self._size:
                self._refuse_changed()
                self.complete = True
                # The agent may flush for about as long as the sending took before it answers.
                self._life.heard(then_allow=time.monotonic() - began)
            else:
                self._life.heard()
            yield ImportImageRequest(data=block)
            self._report(sent, self._size)

    def _read(self, count: int) -> bytes:
        try:
            block = self._file.read(count)
        except OSError as error:
            raise BadInput(f"{self._path} cannot be read on ({error.strerror}): nothing was imported") from error
        if len(block) < count:
            raise self._changed("became shorter")
        return block

    def _refuse_changed(self) -> None:
        if _stamp(self._file) != self._stamp:
            raise self._changed("changed")

    def _changed(self, how: str) -> BadInput:
        return BadInput(
            f"{self._path} {how} while it was read, so nothing was imported: wait until it is no longer written to"
        )


def _open(path: Path) -> BinaryIO:
    try:
        # Without O_NONBLOCK a named pipe would be waited for before it could be refused.
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): give the path of an image file") from error
    return file


def _size(path: Path, file: BinaryIO) -> int:
    mode = os.fstat(file.fileno()).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise BadInput(f"{path} is neither a file nor a block device: give the path of an image file")
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size == 0:
        raise BadInput(f"{path} is empty: give the path of an image file")
    return size


def _stamp(file: BinaryIO) -> tuple[int, int]:
    """Return what differs after the file was written to (of a block device: nothing does)."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
