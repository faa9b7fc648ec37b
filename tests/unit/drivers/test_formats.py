import struct
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.datastore.formats import HEADER_BYTES, Format, ImageFormat, detect
from fedmarket.errors import BadInput, Refused
from fedmarket.units import MIB

CLUSTER = 65536
FILE_SIZE = 4 * CLUSTER


@dataclass(frozen=True)
class Header:
    """The fields of a qcow2 header, in their order, of a small image that holds."""

    magic: bytes = b"QFI\xfb"
    version: int = 3
    backing_file_offset: int = 0
    backing_file_size: int = 0
    cluster_bits: int = 16
    size: int = 20 * MIB
    crypt_method: int = 0
    l1_size: int = 1
    l1_table_offset: int = 3 * CLUSTER
    refcount_table_offset: int = CLUSTER
    refcount_table_clusters: int = 1
    nb_snapshots: int = 0
    snapshots_offset: int = 0
    incompatible_features: int = 0
    compatible_features: int = 0
    autoclear_features: int = 0
    refcount_order: int = 4
    header_length: int = 104

    def pack(self) -> bytes:
        return struct.pack(">4sIQIIQIIQQIIQQQQII", *self.__dict__.values())


V3 = Header()
V2 = replace(V3, version=2)


def detect_header(header: Header) -> ImageFormat:
    return detect(header.pack(), FILE_SIZE)


@pytest.mark.parametrize("header", [V3, V2], ids=["v3", "v2"])
def test_a_qcow2_has_the_virtual_size_of_its_header(header: Header) -> None:
    assert detect_header(header) == ImageFormat(Format.QCOW2, 20 * MIB)


def test_in_version_2_no_feature_bits_are_read() -> None:
    head = V2.pack()[:72] + b"\xff" * (HEADER_BYTES - 72)
    assert detect(head, FILE_SIZE) == ImageFormat(Format.QCOW2, 20 * MIB)


@pytest.mark.parametrize(
    "head",
    [b"", b"Q", b"QFI", b"QFI\xfc" + bytes(100), b"KDMV" + bytes(508), bytes(HEADER_BYTES)],
    ids=["empty", "one byte", "three bytes", "nearly", "vmdk", "zeros"],
)
def test_anything_else_is_raw_and_as_large_as_its_file(head: bytes) -> None:
    assert detect(head, 12345) == ImageFormat(Format.RAW, 12345)


@pytest.mark.parametrize(
    ("header", "feature"),
    [
        (replace(V3, backing_file_offset=0x200, backing_file_size=11), "has a backing file"),
        (replace(V2, backing_file_offset=0x200, backing_file_size=11), "has a backing file"),
        (replace(V3, incompatible_features=1 << 2), "external file"),
        (replace(V3, crypt_method=1), "is encrypted"),
        (replace(V2, crypt_method=2), "is encrypted"),
        (replace(V3, incompatible_features=1 << 5), r"bits 0x20"),
        (replace(V3, incompatible_features=1 << 63), r"bits 0x8000000000000000"),
        (replace(V3, version=1), "version 1"),
        (replace(V3, version=4), "version 4"),
    ],
)
def test_an_image_that_we_cannot_take_is_refused_by_name(header: Header, feature: str) -> None:
    with pytest.raises(Refused, match=feature):
        detect_header(header)


@pytest.mark.parametrize("bit", [0, 3, 4], ids=["dirty", "compression type", "extended l2"])
def test_the_other_known_features_are_taken(bit: int) -> None:
    assert detect_header(replace(V3, incompatible_features=1 << bit)).virtual_size == 20 * MIB


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (replace(V3, incompatible_features=1 << 1), "marked as corrupt"),
        (replace(V3, cluster_bits=8), r"clusters would be of 2\^8 bytes"),
        (replace(V3, cluster_bits=22), r"clusters would be of 2\^22 bytes"),
        (replace(V3, cluster_bits=2**32 - 1), r"clusters would be of 2\^4294967295 bytes"),
        (replace(V3, l1_size=0), "table of 0 entries does not fit"),
        (replace(V3, l1_size=2**31), "table of 2147483648 entries"),
        (replace(V3, size=2**64 - 1), "does not fit a disk of"),
        (replace(V3, size=513 * MIB), "does not fit a disk of 513.0 MiB"),
        (replace(V3, l1_table_offset=3 * CLUSTER + 8), "start at a cluster"),
        (replace(V3, refcount_table_offset=CLUSTER + 1), "start at a cluster"),
    ],
)
def test_a_corrupt_header_is_bad_input_that_says_how(header: Header, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        detect_header(header)


@pytest.mark.parametrize("header", [V3, V2], ids=["v3", "v2"])
@pytest.mark.parametrize("length", [4, 7, 8, 71])
def test_a_file_that_ends_in_its_header_is_truncated(header: Header, length: int) -> None:
    with pytest.raises(BadInput, match=f"truncated: its header ends after {length} bytes"):
        detect(header.pack()[:length], length)


def test_a_version_3_header_is_longer() -> None:
    with pytest.raises(BadInput, match="truncated: its header ends after 103 bytes"):
        detect(V3.pack()[:103], 103)


@pytest.mark.parametrize("size", [104, CLUSTER, 3 * CLUSTER, 3 * CLUSTER + 7])
def test_a_file_that_ends_before_its_tables_is_truncated(size: int) -> None:
    with pytest.raises(BadInput, match=f"truncated: its tables end at byte {3 * CLUSTER + 8}, but it has {size} bytes"):
        detect(V3.pack(), size)


u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
headers = st.builds(
    Header,
    version=st.sampled_from([2, 3]) | u32,
    backing_file_offset=st.just(0) | u64,
    backing_file_size=u32,
    cluster_bits=st.integers(9, 21) | u32,
    size=u64,
    crypt_method=st.just(0) | u32,
    l1_size=u32,
    l1_table_offset=st.just(CLUSTER) | u64,
    refcount_table_offset=st.just(2 * CLUSTER) | u64,
    incompatible_features=st.integers(0, 31) | u64,
    header_length=u32,
)


@settings(deadline=None)
@given(headers, st.integers(0, 2**62))
def test_no_header_gets_past_as_anything_but_a_qcow2_that_holds(header: Header, size: int) -> None:
    try:
        image = detect(header.pack(), size)
    except (BadInput, Refused):
        return
    assert image == ImageFormat(Format.QCOW2, header.size)
    assert header.backing_file_offset == header.crypt_method == 0
    assert header.l1_table_offset + 8 * header.l1_size <= size


@settings(deadline=None)
@given(st.binary(max_size=67), st.integers(0, 2**62))
def test_no_bytes_after_the_magic_make_a_header_that_is_too_short_hold(rest: bytes, size: int) -> None:
    with pytest.raises((BadInput, Refused)):
        detect(b"QFI\xfb" + rest, size)
