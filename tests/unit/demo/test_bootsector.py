from pathlib import Path

from demo import bootsector


def test_a_boot_sector_is_one_sector_that_a_bios_takes() -> None:
    sector = bootsector.boot_sector()
    assert len(sector) == 512
    assert sector[510:] == b"\x55\xaa"


def test_the_code_finds_the_text_behind_it() -> None:
    load_address = 0x7C00
    text_address = (load_address + len(bootsector.CODE)).to_bytes(2, "little")
    assert bootsector.CODE.count(b"\xbe" + text_address) == 2  # mov si, text
    assert bootsector.boot_sector()[len(bootsector.CODE) :].startswith(b"\r\n" + bootsector.TEXT.encode() + b"\r\n\0")


def test_a_disk_has_its_size_and_is_the_same_every_time(tmp_path: Path) -> None:
    size = 64 * 1024
    for name in ("one", "two"):
        bootsector.write_disk(tmp_path / name, size)
    one = (tmp_path / "one").read_bytes()
    assert len(one) == size
    assert one[:512] == bootsector.boot_sector()
    assert one == (tmp_path / "two").read_bytes()
