"""The package `etcd3`, as far as the operator's commands use it: to look after the members of one etcd, one by one.

Its own stubs are of 2018, and today's protobuf takes them in pure Python only; so it is given ours, under the name of
its own. That also keeps one process from holding two descriptors of etcd's messages.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import grpc

from federation.etcd.alarms import Alarm
from federation.etcd.auth import Login
from federation.etcd.errors import meaning, no_answer
from federation.store import Compacted
from fedmarket.errors import BadInput
from fedmarket.pb.etcd import rpc_pb2, rpc_pb2_grpc


def _package() -> Any:
    """Import etcd3 with our stubs in the place of its own."""
    stubs = ModuleType("etcd3.etcdrpc")
    for module in (rpc_pb2, rpc_pb2_grpc):
        vars(stubs).update({name: value for name, value in vars(module).items() if not name.startswith("_")})
    sys.modules[stubs.__name__] = stubs
    return importlib.import_module("etcd3")


etcd3 = _package()


class Sink(Protocol):
    """What a snapshot is written to."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Access:
    """Who we are to the members, and whom we trust: files in PEM, which can be read. No `ca`: no TLS."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""
    """Name that the members' certificates bear, where it is not the host of the endpoint."""
    login: Login | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A member, as the cluster lists it."""

    id: int
    name: str
    """Empty until it has started once."""
    peer_urls: Sequence[str]
    client_urls: Sequence[str]
    learner: bool


class Member:
    """A connection to one member. Every call raises what the table in `federation.etcd.errors` says."""

    def __init__(self, client: Any, where: str) -> None:
        self.where = where
        self._client = client

    def allow(self, seconds: float) -> None:
        """Let each call from now on take so long."""
        self._client.timeout = seconds

    def status(self) -> rpc_pb2.StatusResponse:
        """Return the state of this member."""
        with self._explained("tell its status"):  # by its stub: etcd3's `status` leaves out half of it
            stub, request = self._client.maintenancestub, rpc_pb2.StatusRequest()
            answer: rpc_pb2.StatusResponse = stub.Status(request, self._client.timeout, metadata=self._client.metadata)
            return answer

    def members(self) -> Sequence[Listed]:
        """Return all members of the cluster."""
        with self._explained("list its members"):  # by its stub: etcd3's `members` knows no learners
            stub, request = self._client.clusterstub, rpc_pb2.MemberListRequest()
            answer = stub.MemberList(request, self._client.timeout, metadata=self._client.metadata)
        return [Listed(each.ID, each.name, each.peerURLs, each.clientURLs, each.isLearner) for each in answer.members]

    def alarms(self) -> Sequence[Alarm]:
        """Return the alarms of the whole cluster."""
        with self._explained("list its alarms"):
            found = list(self._client.list_alarms())
        return [Alarm(each.member_id, rpc_pb2.AlarmType.Name(each.alarm_type)) for each in found]

    def compact(self, revision: int) -> bool:
        """Drop the history before a revision, and return when its space is free; False: it was dropped before."""
        try:
            with self._explained("compact"):
                self._client.compact(revision, physical=True)
        except Compacted:
            return False
        return True

    def defragment(self) -> None:
        """Give the free space of this member's database back to its disk. It stands still meanwhile."""
        with self._explained("defragment"):
            self._client.defragment()

    def disarm(self, member: int) -> None:
        """End the NOSPACE alarm of a member; etcd takes 0, which etcd3 says is all of them, for no member."""
        with self._explained("disarm an alarm"):
            self._client.disarm_alarm(member)

    def snapshot(self, sink: Sink) -> None:
        """Write the database of this member, then its SHA-256."""
        with self._explained("send a snapshot"):
            self._client.snapshot(sink)

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        with _explained(doing, self.where):
            yield


@contextmanager
def connect(endpoint: str, access: Access, seconds: float) -> Iterator[Member]:
    """Connect to the member at an endpoint, and log in where there is a login; each call may take `seconds`."""
    host, _, port = endpoint.rpartition(":")
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    if access.server_name:
        options.append(("grpc.ssl_target_name_override", access.server_name))
    login = access.login
    with _explained(f"log in as {login.user!r}" if login else "connect", endpoint):
        client = etcd3.client(
            host,
            int(port),
            ca_cert=access.ca,
            cert_cert=access.cert,
            cert_key=access.key,
            timeout=seconds,
            user=login.user if login else None,
            password=login.password if login else None,
            grpc_options=options,
        )
    # The token goes with the metadata; as credentials of a call, too, gRPC would refuse it where there is no TLS.
    client.call_credentials = None
    with client:
        yield Member(client, endpoint)


@contextmanager
def _explained(doing: str, where: str) -> Iterator[None]:
    """Raise the errors of our tree in place of etcd3's, which say nothing, and of gRPC's."""
    try:
        yield
    except grpc.RpcError as error:
        raise _meaning(error, doing, where) from error
    except etcd3.Etcd3Exception as error:
        raise _meaning(error.__context__, doing, where) from error
    except ValueError as error:  # what gRPC says of options or texts that it cannot send
        raise BadInput(f"etcd at {where} cannot be asked to {doing} ({error}): check what was given") from error


def _meaning(error: BaseException | None, doing: str, where: str) -> Exception:
    if not isinstance(error, grpc.RpcError):
        return no_answer(f"failed to {doing}", where=where)
    return meaning(error.code(), error.details() or "no details", doing=doing, where=where)
