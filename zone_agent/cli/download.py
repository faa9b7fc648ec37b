"""Fetching an app's bytes: resumed where the stream broke, checked, and seen in their file only when whole."""

import hashlib
import sys
import time
from pathlib import Path
from typing import BinaryIO

from fedmarket.errors import Corrupt, Internal, Refused, Unavailable
from fedmarket.pb.fedmarket.v1.app_pb2 import App, DownloadAppRequest
from fedmarket.pb.fedmarket.v1.app_pb2_grpc import AppServiceStub
from fedmarket.pb.fedmarket.v1.common_pb2 import Ref
from fedmarket.retry import Backoff
from zone_agent.cli.newfile import new_file
from zone_agent.cli.progress import Progress, progress
from zone_agent.cli.session import LifeSigns, Session

MAX_TRIES = 5
"""In a row that bring nothing."""
RECONNECT = Backoff(first_seconds=0.2, longest_seconds=2.0)


def download_to_stdout(session: Session, app: Ref) -> App:
    """Write an app's bytes to stdout. They are checked at the end only, when the reader has them already."""
    return _fetch(session, app, sys.stdout.buffer)


def download_to_file(session: Session, app: Ref, path: Path, *, overwrite: bool) -> App:
    """Write an app's bytes to a file that appears when it is whole and checked.

    Raises AlreadyExists if it is there and not to be overwritten, Corrupt if the bytes are not the app's.
    """
    with new_file(path, overwrite=overwrite) as file:
        return _fetch(session, app, file)


def _fetch(session: Session, app: Ref, sink: BinaryIO) -> App:
    with progress("receiving") as report:
        fetch = _Fetch(session, app, sink, report)
        failures = 0
        while (whole := fetch.whole) is None:
            before = fetch.done
            try:
                fetch.one_stream()
            except Unavailable:
                failures = 1 if fetch.done > before else failures + 1
                if fetch.app is None or failures == MAX_TRIES:
                    raise
                time.sleep(RECONNECT.delay(failures))
        fetch.check(whole)
        sink.flush()
        return whole


class _Fetch:
    """An app's bytes so far."""

    def __init__(self, session: Session, ref: Ref, sink: BinaryIO, report: Progress) -> None:
        self.app: App | None = None
        self.done = 0
        self._session = session
        self._ref = ref
        self._sink = sink
        self._report = report
        self._digest = hashlib.sha256()

    @property
    def whole(self) -> App | None:
        """The app, once all its bytes are here."""
        return self.app if self.app is not None and self.done == self.app.size_bytes else None

    def one_stream(self) -> None:
        """Receive from where the last stream ended. Raises Unavailable if this one ends too early."""
        life = LifeSigns()
        call = self._session.stub(AppServiceStub).Download(
            DownloadAppRequest(app=self._ref, offset=self.done), metadata=self._session.metadata
        )
        with self._session.listening(call, life):
            for message in call:
                life.heard()
                if message.HasField("start"):
                    self._start(message.start.app)
                else:
                    self._take(message.data)
        if self.whole is None:
            raise Unavailable("the agent ended the download before its end: try again")

    def _start(self, app: App) -> None:
        if self.app is None:
            if not app.sha256:
                raise Refused(f"app {app.id} has no SHA-256, so its bytes cannot be checked: wait until it is ready")
            self.app = app
            self._ref = Ref(id=app.id)
        elif (app.sha256, app.size_bytes) != (self.app.sha256, self.app.size_bytes):
            raise Corrupt(f"app {app.id} was replaced during the download: start it anew")

    def _take(self, block: bytes) -> None:
        if self.app is None:
            raise Internal("the agent sent bytes without saying of what: look at its log and version")
        self.done += len(block)
        if self.done > self.app.size_bytes:
            raise Corrupt(f"the agent sent more than the {self.app.size_bytes} bytes of app {self.app.id}: see its log")
        self._digest.update(block)
        self._sink.write(block)
        self._report(self.done, self.app.size_bytes)

    def check(self, app: App) -> None:
        """Raise Corrupt if the bytes are not those of the app."""
        found = self._digest.hexdigest()
        if found != app.sha256:
            raise Corrupt(
                f"the bytes of app {app.id} have SHA-256 {found}, not {app.sha256}: do not use them, and "
                "have the market's storage checked"
            )
