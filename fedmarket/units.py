"""Sizes and durations as OpenNebula counts them and as people read them."""

MIB = 1 << 20

_SIZE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def mib_ceil(size: int) -> int:
    """Return bytes as MiB, rounded up: the SIZE of OpenNebula's images and apps."""
    return -(-size // MIB)


def human_size(size: int) -> str:
    """Return bytes to a base of 1024, with one decimal from KiB on: `512 B`, `5.1 MiB`."""
    value = float(size)
    for unit in _SIZE_UNITS:
        shown = f"{value:.0f}" if unit == "B" else f"{value:.1f}"
        # Compared as shown: what would read "1024.0 KiB" is "1.0 MiB".
        if float(shown) < 1024 or unit == _SIZE_UNITS[-1]:
            break
        value /= 1024
    return f"{shown} {unit}"


def human_duration(seconds: float) -> str:
    """Return seconds as the two largest units that matter: `85 ms`, `1.2 s`, `2 min 05 s`, `3 h 04 min`, `2 d 03 h`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, second = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {second:02} s"
    hours, minute = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minute:02} min"
    days, hour = divmod(hours, 24)
    return f"{days} d {hour:02} h"
