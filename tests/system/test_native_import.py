"""Imports over the native gRPC API that are none: out of order, of another length, cancelled at any moment."""

import threading
import time
from collections.abc import Iterator, Sequence

import grpc
import pytest

from fedmarket.pb.fedmarket.v1 import image_pb2
from fedmarket.pb.fedmarket.v1.image_pb2 import ImportImageRequest, ImportStart
from fedmarket.pb.fedmarket.v1.record_pb2 import IMAGE_STATE_LOCKED
from tests.support.native import SECONDS, Native, parts, ref, refused
from tests.support.zones import Zone, until

MIB = 1 << 20

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def importing(native: Native, messages: Sequence[ImportImageRequest]) -> image_pb2.Image:
    return native.call(native.images.Import, iter(messages))


def began(name: str, size: int) -> ImportImageRequest:
    return ImportImageRequest(start=ImportStart(name=name, datastore=ref("default"), size_bytes=size))


def data(content: bytes) -> ImportImageRequest:
    return ImportImageRequest(data=content)


@pytest.mark.parametrize(
    ("messages", "status", "cause"),
    [
        pytest.param([], INVALID, "bad-input", id="nothing"),
        pytest.param([data(b"x")], INVALID, "bad-input", id="data-first"),
        pytest.param([ImportImageRequest()], INVALID, "bad-input", id="an-empty-message-first"),
        pytest.param([began("n", 3), began("n", 3)], INVALID, "bad-input", id="two-starts"),
        pytest.param([began("n", 3), ImportImageRequest()], INVALID, "bad-input", id="an-empty-message"),
        pytest.param([began("n", 0)], INVALID, "bad-input", id="no-size"),
        pytest.param([began("n", 3), data(b"xx")], grpc.StatusCode.DATA_LOSS, "corrupt", id="fewer-bytes"),
        pytest.param([began("n", 3)], grpc.StatusCode.DATA_LOSS, "corrupt", id="no-bytes"),
        pytest.param([began("n", 3), data(b"xx"), data(b"xx")], grpc.StatusCode.DATA_LOSS, "corrupt", id="more-bytes"),
        pytest.param([began("n", 1 << 62)], grpc.StatusCode.RESOURCE_EXHAUSTED, "no-space", id="more-than-the-disk"),
        pytest.param([began("n", (1 << 64) - 1)], grpc.StatusCode.RESOURCE_EXHAUSTED, "no-space", id="2^64-1"),
        pytest.param([began("n", 8 * MIB), data(bytes(5 * MIB))], grpc.StatusCode.RESOURCE_EXHAUSTED, "", id="5-MiB"),
        pytest.param(
            [ImportImageRequest(start=ImportStart(name="n", datastore=ref("nowhere"), size_bytes=1)), data(b"x")],
            NOT_FOUND,
            "not-found",
            id="no-such-datastore",
        ),
        pytest.param(
            [ImportImageRequest(start=ImportStart(name="n", size_bytes=1)), data(b"x")],
            INVALID,
            "bad-input",
            id="without-a-datastore",
        ),
    ],
)
def test_an_import_out_of_order_is_refused_and_leaves_nothing(
    alone: Zone, messages: list[ImportImageRequest], status: grpc.StatusCode, cause: str
) -> None:
    before = alone.kept()
    with refused(status, cause):
        importing(alone.native, messages)
    until(lambda: alone.kept() == before, "nothing is left of the import")


def test_an_import_that_is_cancelled_half_way_leaves_nothing(alone: Zone) -> None:
    native, before = alone.native, alone.kept()
    go_on = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield bytes(MIB)
        go_on.wait(SECONDS)

    call = native.images.Import.future(parts("cancelled", 4 * MIB, slowly()), metadata=native.metadata, timeout=SECONDS)
    until(lambda: "cancelled" in native.image_names(), "the import has begun")
    assert native.image("cancelled").state == IMAGE_STATE_LOCKED
    call.cancel()
    go_on.set()
    until(lambda: alone.kept() == before, "nothing is left of the import")


def test_imports_that_are_cancelled_at_any_moment_leave_nothing(alone: Zone) -> None:
    """Also while the record is being committed, and while the space is being reserved."""
    native, before = alone.native, alone.kept()
    for delay in range(40):
        go_on = threading.Event()

        def slowly(go_on: threading.Event = go_on) -> Iterator[bytes]:
            yield bytes(MIB)
            go_on.wait(SECONDS)

        call = native.images.Import.future(
            parts(f"cancelled-{delay}", 512 * MIB, slowly()), metadata=native.metadata, timeout=SECONDS
        )
        time.sleep(delay / 1000)
        call.cancel()
        go_on.set()
    until(lambda: alone.kept() == before, "nothing is left of the imports")


def test_a_name_that_an_import_holds_is_free_again_when_it_was_cancelled(alone: Zone) -> None:
    native = alone.native
    with refused(grpc.StatusCode.DATA_LOSS, "corrupt"):
        importing(native, [began("again", 2), data(b"x")])
    assert native.import_image("again", b"xx").size_bytes == 2
    native.delete_image("again")
