"""What a supervisor decides about a worker process that ended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soniq.policy.restart import Ended, GiveUp, Leave, Refill, after, pause_after

KILLED = -9


def verdict(
    code: int = 1,
    *,
    ready: bool = True,
    seconds: float = 5.0,
    failures: int = 0,
    stopping: bool = False,
    run_once: bool = False,
    others_ready: bool = True,
) -> object:
    ended = Ended(code, ready, seconds, failures)
    return after(ended, stopping=stopping, run_once=run_once, others_ready=others_ready)


def test_pauses_double_up_to_half_a_minute() -> None:
    pauses = [pause_after(failures) for failures in range(1, 10)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert pause_after(10_000) == 30


def test_failures_in_a_row_are_counted_and_a_minute_of_health_ends_the_row() -> None:
    assert verdict(KILLED, failures=3) == Refill(4.0, 4)
    assert verdict(KILLED, failures=3, seconds=60) == Refill(0.5, 1)


def test_one_that_was_drained_by_itself_is_replaced_at_once() -> None:
    assert verdict(0, failures=5) == Refill(0.0, 0)


def test_with_run_once_the_end_of_a_worker_means_that_nothing_is_due() -> None:
    assert verdict(0, run_once=True) == Leave()
    assert verdict(KILLED, run_once=True) == Refill(0.5, 1)


def test_a_fault_at_the_start_ends_everything_unless_others_show_that_it_can_work() -> None:
    assert verdict(2, ready=False, others_ready=False) == GiveUp()
    assert verdict(2, ready=False, others_ready=True) == Refill(0.5, 1)
    assert verdict(2, ready=True, others_ready=False) == Refill(0.5, 1)


@pytest.mark.parametrize("code", [-9, -11])
def test_one_that_was_killed_says_nothing_about_the_next(code: int) -> None:
    assert verdict(code, ready=False, others_ready=False) == Refill(0.5, 1)


@given(
    code=st.integers(-64, 255),
    ready=st.booleans(),
    seconds=st.floats(0, 1e6),
    failures=st.integers(0, 1000),
    run_once=st.booleans(),
    others_ready=st.booleans(),
)
def test_nobody_is_replaced_while_everything_stops(
    code: int, ready: bool, seconds: float, failures: int, run_once: bool, others_ready: bool
) -> None:
    ended = Ended(code, ready, seconds, failures)
    assert after(ended, stopping=True, run_once=run_once, others_ready=others_ready) == Leave()
    goes_on = after(ended, stopping=False, run_once=run_once, others_ready=others_ready)
    if isinstance(goes_on, Refill):
        assert 0 <= goes_on.pause_seconds <= 30
        assert goes_on.failures == 0 or code != 0
