"""Names of markets, apps, images, datastores and zones: OpenNebula's rule, made safe for terminals and paths."""

from fedmarket.errors import BadInput

MAX_BYTES = 128
FORBIDDEN = frozenset("&|:\\\";/'#{}$<>")


def check_name(name: str, what: str) -> str:
    r"""Return `name` unchanged, or raise BadInput with the reason.

    The rule is OpenNebula's (1-128 bytes, none of ``& | : \ " ; / ' # { } $ < >``), and beyond it no control
    characters, no blanks at either end, and neither `.` nor `..`.
    """
    if not name:
        raise BadInput(f"the {what} needs a name: give one of 1 to {MAX_BYTES} bytes")
    if len(name.encode(errors="surrogatepass")) > MAX_BYTES:
        raise BadInput(f"the {what} name {name[:20]!r}... is longer than {MAX_BYTES} bytes: give a shorter one")
    bad = sorted({c for c in name if c in FORBIDDEN or not c.isprintable()})
    if bad:
        shown = " ".join(repr(c) if not c.isprintable() else c for c in bad)
        raise BadInput(f"the {what} name {name!r} holds {shown}, which names may not: choose another name")
    if name != name.strip() or name in {".", ".."}:
        raise BadInput(f"the {what} name {name!r} is not usable as a name: choose another one")
    return name
