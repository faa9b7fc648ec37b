"""What a booting machine's console shows."""

from demo.boot import plain


def test_a_text_is_found_though_a_slow_machine_moves_the_cursor_within_it() -> None:
    console = b"\x1b[05;78H\r\n \x1b[02;30HGNU\x1b[02;33H\x1b[02;34H GR\x1b[02;37HUB  version\x1b[0m"
    assert b"GNU GRUB  version" in plain(console)
