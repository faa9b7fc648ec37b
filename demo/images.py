"""A real bootable image for the story."""

from dataclasses import dataclass
from pathlib import Path

from demo import bootsector, tools

PACKAGE = "grub-rescue-pc"
FILE = "usr/lib/grub-rescue/grub-rescue-cdrom.iso"
OWN_SIZE = 8 * 1024 * 1024


@dataclass(frozen=True)
class BootImage:
    """An image, and what it shows on its console once it runs."""

    path: Path
    name: str
    shows: str
    origin: str


def find(cache: Path) -> BootImage:
    """Return Debian's rescue disk, installed or fetched into `cache`; else a disk of our own making."""
    installed, fetched = Path("/") / FILE, cache / PACKAGE / FILE
    if installed.exists():
        return _rescue(installed, "as it is installed here")
    if fetched.exists() or (tools.unpack(PACKAGE, cache / PACKAGE) and fetched.exists()):
        return _rescue(fetched, f"from its package {PACKAGE}")
    own = cache / "boots.raw"
    bootsector.write_disk(own, OWN_SIZE)
    return BootImage(own, "boots", bootsector.TEXT, "a small disk made here: Debian's rescue disk could not be had")


def _rescue(path: Path, how: str) -> BootImage:
    return BootImage(path, "grub-rescue", "GNU GRUB", f"Debian's GRUB rescue disk, {how}")
