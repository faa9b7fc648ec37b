import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmarket.units import MIB, human_duration, human_size, mib_ceil


@pytest.mark.parametrize(
    ("size", "mib"), [(0, 0), (1, 1), (MIB - 1, 1), (MIB, 1), (MIB + 1, 2), (2**63, 2**43), (2**63 + 1, 2**43 + 1)]
)
def test_mib_are_rounded_up(size: int, mib: int) -> None:
    assert mib_ceil(size) == mib


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5_347_328, "5.1 MiB"),
        (MIB - 1, "1.0 MiB"),
        (1 << 30, "1.0 GiB"),
        (1 << 70, "1024.0 EiB"),
    ],
)
def test_sizes_read_well(size: int, shown: str) -> None:
    assert human_size(size) == shown


@settings(deadline=None)
@given(st.integers(0, 1 << 63))
def test_a_size_is_never_shown_with_1024_of_a_unit(size: int) -> None:
    assert not human_size(size).startswith("1024")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 ms"),
        (0.0854, "85 ms"),
        (0.9996, "1.0 s"),
        (1.24, "1.2 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (11_040, "3 h 04 min"),
        (86_399, "23 h 59 min"),
        (183_600, "2 d 03 h"),
    ],
)
def test_durations_read_well(seconds: float, shown: str) -> None:
    assert human_duration(seconds) == shown
