"""Rates are read as people write them, and written so that they can be read again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soniq.errors import InvalidOption
from soniq.job.rate import Rate, checked_burst, checked_rate


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [
        ("100/minute", 100, 60.0),
        ("5/second", 5, 1.0),
        ("5/s", 5, 1.0),
        (" 1000 / Day ", 1000, 86_400.0),
        ("10/30 seconds", 10, 30.0),
        ("10/30s", 10, 30.0),
        ("3 per hour", 3, 3600.0),
        ("2/90min", 2, 5400.0),
    ],
)
def test_a_rate_is_read(text: str, count: int, seconds: float) -> None:
    assert checked_rate(text) == Rate(count, seconds)


@pytest.mark.parametrize(
    "wrong", ["", "100", "100/", "/minute", "0/minute", "-1/minute", "1.5/s", "1/0s", "1/year", 5]
)
def test_what_is_no_rate_is_refused_with_an_example(wrong: object) -> None:
    with pytest.raises(InvalidOption, match="'100/minute'"):
        checked_rate(wrong)


def test_times_that_no_clock_can_add_up_are_refused() -> None:
    """Once kept, every claim of the queue failed: the timestamp was out of range."""
    assert checked_rate("1/3660 days").seconds == 3660 * 86_400
    for wrong in ("1/3661 days", "1/999999999 days"):
        with pytest.raises(InvalidOption, match="at most 10 years"):
            checked_rate(wrong)
    assert checked_burst(10, checked_rate("1/3660 days")) == 10
    with pytest.raises(InvalidOption, match="at 1/3660 days, 11 do not"):
        checked_burst(11, checked_rate("1/3660 days"))


@given(st.integers(1, 10**8), st.integers(1, 10**8))
def test_a_rate_that_was_written_is_read_the_same(count: int, seconds: int) -> None:
    rate = Rate(count, float(seconds))
    assert checked_rate(str(rate)) == rate
    assert checked_rate(rate) is rate
