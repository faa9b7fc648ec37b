"""What can go wrong in the demo."""


class DemoError(Exception):
    """The demo cannot go on; the message is one sentence that says why and what to do."""


class StepFailed(DemoError):
    """A step of the story does not hold: fedmarket did not do what it promises."""

    def __init__(self, expected: str, seen: object) -> None:
        super().__init__(f"expected {expected}, but saw: {seen}")
        self.expected = expected
        self.seen = str(seen)


def expect(holds: bool, expected: str, seen: object) -> None:
    """Raise StepFailed unless `holds`."""
    if not holds:
        raise StepFailed(expected, seen)
