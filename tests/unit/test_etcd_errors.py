"""What etcd's errors become."""

import pytest
from grpc import StatusCode

from federation.etcd.errors import AuthChanged, AuthDisabled, FutureRevision, NotLoggedIn, meaning
from federation.store import Compacted, StoreUnavailable
from fedmarket.errors import Denied, NoSpace, NotFound, TooLarge

CALLER_FAULTS = {StatusCode.PERMISSION_DENIED: Denied, StatusCode.UNAUTHENTICATED: NotLoggedIn}


@pytest.mark.parametrize("code", StatusCode)
@pytest.mark.parametrize("text", ["", "something that no etcd has said so far"])
def test_whatever_nobody_foresaw_counts_as_a_store_that_does_not_answer(code: StatusCode, text: str) -> None:
    expected = CALLER_FAULTS.get(code, StoreUnavailable)
    assert type(meaning(code, text, doing="read", where="here")) is expected


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Compacted),
        (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision", FutureRevision),
        (StatusCode.NOT_FOUND, "etcdserver: requested lease not found", NotFound),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", TooLarge),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", TooLarge),
        (StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (9 vs. 8)", TooLarge),
        (StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (9 vs. 8)", TooLarge),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", NoSpace),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", StoreUnavailable),
        (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", Denied),
        (StatusCode.UNKNOWN, "auth: permission denied", Denied),
        (StatusCode.UNKNOWN, "rpc error: code = PermissionDenied desc = etcdserver: permission denied", Denied),
        (StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token", NotLoggedIn),
        (StatusCode.UNKNOWN, "etcdserver: invalid auth token", NotLoggedIn),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty", NotLoggedIn),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", AuthChanged),
        (StatusCode.UNKNOWN, "auth: revision in header is old", AuthChanged),
        (
            StatusCode.INVALID_ARGUMENT,
            "etcdserver: authentication failed, invalid user ID or password",
            Denied,
        ),
        (StatusCode.FAILED_PRECONDITION, "etcdserver: authentication is not enabled", AuthDisabled),
        (StatusCode.UNAVAILABLE, "etcdserver: leader changed", StoreUnavailable),
        (StatusCode.UNAVAILABLE, "etcdserver: request timed out", StoreUnavailable),
        (StatusCode.UNKNOWN, "etcdserver: no leader", StoreUnavailable),
        (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", StoreUnavailable),
        (StatusCode.CANCELLED, "Cancelled on the server side", StoreUnavailable),
    ],
)
def test_what_etcd_says_has_its_place_in_our_tree(code: StatusCode, text: str, expected: type[Exception]) -> None:
    assert type(meaning(code, text, doing="read", where="here")) is expected


def test_a_message_says_where_what_and_what_to_do_next() -> None:
    error = meaning(
        StatusCode.RESOURCE_EXHAUSTED,
        "etcdserver: mvcc: database space exceeded",
        doing="apply a transaction",
        where="10.0.0.1:2379",
    )
    assert str(error) == (
        "etcd at 10.0.0.1:2379 failed to apply a transaction (RESOURCE_EXHAUSTED: etcdserver: mvcc: database space "
        "exceeded): compact and defragment it, or raise its quota, then disarm its NOSPACE alarm"
    )


def test_a_long_text_of_the_server_is_cut() -> None:
    error = meaning(StatusCode.INTERNAL, "x" * 100_000, doing="read", where="here")
    assert len(str(error)) < 500
