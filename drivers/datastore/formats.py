"""What an image is, from its header alone: a qcow2, or anything else, which is raw.

We read the header ourselves and never let qemu probe: a guest can write any header into its own raw disk, and a qcow2
can name other files of the host.
Source of the layout: QEMU, docs/interop/qcow2.txt.
"""

import struct
from dataclasses import dataclass
from enum import StrEnum

from fedmarket.errors import BadInput, Refused
from fedmarket.units import human_size

HEADER_BYTES = 104
"""How much of the beginning of an image must be known to say what it is."""


class Format(StrEnum):
    """Formats that an image is stored in, as OpenNebula and qemu-img name them."""

    RAW = "raw"
    QCOW2 = "qcow2"


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """What a header says."""

    format: Format
    virtual_size: int
    """Bytes of the disk that a machine sees."""


_MAGIC = b"QFI\xfb"
_PREFIX = struct.Struct(">4sI")
_V2 = struct.Struct(">QIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_CORRUPT, _EXTERNAL_DATA, _EXTENDED_L2 = 1 << 1, 1 << 2, 1 << 4
_KNOWN_FEATURES = 0b11111  # the three above, dirty (0) and compression type (3)
_CLUSTER_BITS = range(9, 22)
_MAX_L1_BYTES = 32 << 20  # qemu opens no image with more


def detect(head: bytes, size: int) -> ImageFormat:
    """Say what an image of `size` bytes is, from its first `HEADER_BYTES` (all of it, if it is shorter).

    Raises Refused for a qcow2 that is not whole in itself (backing file, external data file), is encrypted or of a
    version we do not know; BadInput for one that is truncated or corrupt.
    """
    if not head.startswith(_MAGIC):
        return ImageFormat(Format.RAW, size)
    header = _Qcow2.parse(head)
    header.refuse_features()
    header.check_tables(size)
    return ImageFormat(Format.QCOW2, header.virtual_size)


@dataclass(frozen=True, slots=True)
class _Qcow2:
    backing_file_offset: int
    cluster_bits: int
    virtual_size: int
    crypt_method: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    features: int = 0
    """Incompatible ones: who does not know a bit must not open the image."""

    @classmethod
    def parse(cls, head: bytes) -> "_Qcow2":
        try:
            version = _PREFIX.unpack_from(head)[1]
            if version not in {2, 3}:
                raise Refused(
                    f"the image is a qcow of version {version}, and versions 2 and 3 are supported: "
                    "convert it with qemu-img"
                )
            backing, _, bits, virtual, crypt, l1_entries, l1_offset, refcounts, *_ = _V2.unpack_from(head, _PREFIX.size)
            features, *_ = _V3.unpack_from(head, _PREFIX.size + _V2.size) if version == 3 else (0,)
        except struct.error:
            raise BadInput(
                f"the qcow2 image is truncated: its header ends after {len(head)} bytes; fetch it again"
            ) from None
        return cls(backing, bits, virtual, crypt, l1_entries, l1_offset, refcounts, features)

    def refuse_features(self) -> None:
        if self.backing_file_offset:
            raise Refused(
                "the qcow2 image has a backing file, without which it is not whole: "
                "flatten it with 'qemu-img convert' and import the result"
            )
        if self.features & _EXTERNAL_DATA:
            raise Refused(
                "the qcow2 image keeps its data in an external file: "
                "join them with 'qemu-img convert' and import the result"
            )
        if self.crypt_method:
            raise Refused("the qcow2 image is encrypted: decrypt it with 'qemu-img convert' and import the result")
        if self.features & _CORRUPT:
            raise BadInput("the qcow2 image is marked as corrupt: repair it with 'qemu-img check -r all' first")
        if unknown := self.features & ~_KNOWN_FEATURES:
            raise Refused(
                f"the qcow2 image needs features that are not known here (bits {unknown:#x}): convert it with qemu-img"
            )

    def check_tables(self, size: int) -> None:
        """Check that the tables that the header points to can exist, and lie inside a file of `size` bytes."""
        if self.cluster_bits not in _CLUSTER_BITS:
            raise _corrupt(f"its clusters would be of 2^{self.cluster_bits} bytes")
        cluster = 1 << self.cluster_bits
        table_entries = cluster // (16 if self.features & _EXTENDED_L2 else 8)
        needed = -(-self.virtual_size // (cluster * table_entries))
        if not needed <= self.l1_entries <= _MAX_L1_BYTES // 8:
            raise _corrupt(
                f"its table of {self.l1_entries} entries does not fit a disk of {human_size(self.virtual_size)}"
            )
        if self.l1_offset % cluster or self.refcount_offset % cluster:
            raise _corrupt("a table does not start at a cluster")
        ends = max(self.l1_offset + 8 * self.l1_entries, self.refcount_offset + 8)
        if ends > size:
            raise BadInput(
                f"the qcow2 image is truncated: its tables end at byte {ends}, but it has {size} bytes; fetch it again"
            )


def _corrupt(how: str) -> BadInput:
    return BadInput(f"the qcow2 image has a corrupt header: {how}; check it with 'qemu-img check'")
