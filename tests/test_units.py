"""Durations and sizes: read, and written back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.units import duration_text, parse_duration, parse_size, size_text


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("250ms", 0.25), ("1.5h", 5400.0), ("2d", 172800.0), ("7", 7.0)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("512kB", 524288), ("1 GB", 1 << 30), ("7", 7), ("64mb", 1 << 26)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.integers(0, 10**12))
def test_a_written_duration_is_read_as_it_was(milliseconds: int) -> None:
    assert parse_duration(duration_text(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.one_of(st.integers(1, 2**40), st.integers(1, 2**10).map(lambda size: size << 20)))
def test_a_written_size_is_read_as_it_was(size: int) -> None:
    assert parse_size(size_text(size)) == size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (1, "1s"),
        (60, "60s"),
        (3600, "1h"),
        (86400, "24h"),
        (172800, "2d"),
        (2.5, "2500ms"),
    ],
)
def test_durations_are_written_as_people_know_them(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
