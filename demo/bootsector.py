"""A small disk that boots, made from nothing: for machines where no bootable image is to be had.

Its boot sector prints a line on the screen and on the first serial port, then powers the machine off. The rest is
noise, the same at every run, so that the disk has a size worth transferring and cannot be compressed away.
"""

import hashlib
from pathlib import Path

TEXT = "FEDMARKET IMAGE BOOTED"
SECTOR = 512
SIGNATURE = b"\x55\xaa"
"""The last bytes of a sector that a PC's BIOS boots."""

# 16-bit x86, as the BIOS finds it at 0x7c00. Jumps are relative; only the address of the text is absolute.
CODE = bytes.fromhex(
    "31c0"  #       xor ax, ax
    "8ed8"  #       mov ds, ax
    "8ed0"  #       mov ss, ax
    "bc007c"  #     mov sp, 0x7c00      the stack grows down from below the code
    "fc"  #         cld
    "be497c"  #     mov si, text
    # screen:
    "ac"  #         lodsb
    "84c0"  #       test al, al
    "7409"  #       jz serial
    "b40e"  #       mov ah, 0x0e        BIOS: print a character
    "bb0700"  #     mov bx, 7
    "cd10"  #       int 0x10
    "ebf2"  #       jmp screen
    # serial:
    "be497c"  #     mov si, text
    # next:
    "ac"  #         lodsb
    "88c3"  #       mov bl, al
    "84c0"  #       test al, al
    "740f"  #       jz off
    # busy:
    "bafd03"  #     mov dx, 0x3fd       COM1: line status
    "ec"  #         in al, dx
    "a820"  #       test al, 0x20       ready for the next byte
    "74f8"  #       jz busy
    "88d8"  #       mov al, bl
    "b2f8"  #       mov dl, 0xf8        COM1: data, 0x3f8
    "ee"  #         out dx, al
    "ebea"  #       jmp next
    # off:
    "b80153"  #     mov ax, 0x5301      APM: connect
    "31db"  #       xor bx, bx
    "cd15"  #       int 0x15
    "b80753"  #     mov ax, 0x5307      APM: set the power state
    "bb0100"  #     mov bx, 1           of all devices
    "b90300"  #     mov cx, 3           to off
    "cd15"  #       int 0x15
    # halt:
    "f4"  #         hlt
    "ebfd"  #       jmp halt
)


def boot_sector() -> bytes:
    """Return the 512 bytes that a BIOS loads from the disk and runs."""
    program = CODE + f"\r\n{TEXT}\r\n\0".encode()
    return program.ljust(SECTOR - len(SIGNATURE), b"\0") + SIGNATURE


def write_disk(path: Path, size: int) -> None:
    """Write a bootable raw disk of `size` bytes."""
    noise = hashlib.shake_256(TEXT.encode()).digest(size - SECTOR)
    path.write_bytes(boot_sector() + noise)
