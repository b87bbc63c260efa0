"""Options are checked before anything is written, and say which one was wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soniq.errors import InvalidOption, UnknownOption
from soniq.job.options import ENQUEUE_OPTIONS, EnqueueOptions, enqueue_options
from soniq.job.outcome import Retry, Snooze, seconds_of

MOMENT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))

TAKEN: list[tuple[dict[str, Any], EnqueueOptions]] = [
    ({}, EnqueueOptions()),
    (dict.fromkeys(ENQUEUE_OPTIONS), EnqueueOptions()),
    ({"queue": "x" * 128}, EnqueueOptions(queue="x" * 128)),
    ({"priority": 1}, EnqueueOptions(priority=1)),
    ({"priority": 1000}, EnqueueOptions(priority=1000)),
    ({"delay": 2}, EnqueueOptions(due=2.0)),
    ({"delay": 0}, EnqueueOptions(due=0.0)),
    ({"delay": timedelta(minutes=1)}, EnqueueOptions(due=60.0)),
    ({"scheduled_at": MOMENT}, EnqueueOptions(due=MOMENT)),
    ({"max_retries": 0}, EnqueueOptions(max_retries=0)),
    ({"max_retries": 10_000}, EnqueueOptions(max_retries=10_000)),
    ({"timeout": 0}, EnqueueOptions(timeout=0.0)),
    ({"timeout": timedelta(seconds=1.5)}, EnqueueOptions(timeout=1.5)),
    ({"tags": ["a", "b"]}, EnqueueOptions(tags=("a", "b"))),
    ({"tags": []}, EnqueueOptions(tags=())),
]


@pytest.mark.parametrize(("options", "expected"), TAKEN, ids=str)
def test_good_options_are_taken(options: dict[str, Any], expected: EnqueueOptions) -> None:
    assert enqueue_options(options) == expected


def test_a_moment_is_kept_in_utc() -> None:
    due = enqueue_options({"scheduled_at": MOMENT}).due
    assert isinstance(due, datetime)
    assert due.tzinfo is UTC


BAD: list[dict[str, Any]] = [
    {"queue": ""}, {"queue": "  "}, {"queue": "x" * 129}, {"queue": 7}, {"queue": "a\0b"},
    {"queue": "\ud800"}, {"queue": b"x"},
    {"priority": 0}, {"priority": 1001}, {"priority": 1.5}, {"priority": True}, {"priority": "1"},
    {"delay": -1}, {"delay": timedelta(seconds=-1)}, {"delay": float("nan")},
    {"delay": float("inf")}, {"delay": "1"}, {"delay": True}, {"delay": 4e9}, {"delay": MOMENT},
    {"delay": 1, "scheduled_at": MOMENT},
    {"scheduled_at": MOMENT.replace(tzinfo=None)}, {"scheduled_at": 5},
    {"scheduled_at": "2030-01-01"},
    {"scheduled_at": MOMENT.date()},
    {"scheduled_at": datetime.max.replace(tzinfo=timezone(-timedelta(hours=5)))},
    {"scheduled_at": datetime.max.replace(tzinfo=UTC)},
    {"scheduled_at": datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))},
    {"max_retries": -1}, {"max_retries": 10_001}, {"max_retries": 1.0}, {"max_retries": False},
    {"timeout": -1}, {"timeout": "5"}, {"timeout": float("nan")}, {"timeout": 10**400},
    {"tags": "word"}, {"tags": 5}, {"tags": [1]}, {"tags": [""]}, {"tags": ["x" * 101]},
    {"tags": ["x"] * 51}, {"tags": ["a\0"]},
]  # fmt: skip


@pytest.mark.parametrize("options", BAD, ids=lambda options: ascii(options)[:50])
def test_a_bad_option_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption) as caught:
        enqueue_options(options)
    name = next(iter(options))
    assert name.removesuffix("s") in str(caught.value)


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UnknownOption, match="Did you mean 'priority'"):
        enqueue_options({"priorty": 5})
    with pytest.raises(UnknownOption, match="Known: dedup_key, delay, "):
        enqueue_options({"zzz": 5})


_options = st.builds(
    EnqueueOptions,
    queue=st.none() | st.text(),
    priority=st.none() | st.integers(),
    due=st.none() | st.floats(0, 9),
    max_retries=st.none() | st.integers(0, 9),
    timeout=st.none() | st.floats(0, 9),
    tags=st.none() | st.tuples() | st.tuples(st.text()),
)


@given(_options, _options)
def test_what_is_given_last_wins_and_the_rest_stays(
    base: EnqueueOptions, top: EnqueueOptions
) -> None:
    laid = top.over(base)
    for name in ("queue", "priority", "due", "max_retries", "timeout", "tags"):
        chosen = getattr(top, name)
        assert getattr(laid, name) == (getattr(base, name) if chosen is None else chosen)


@given(st.floats(0, 3e9) | st.timedeltas(timedelta(0), timedelta(days=30_000)))
def test_seconds_and_timedeltas_mean_the_same(value: float | timedelta) -> None:
    seconds = seconds_of(value, "x")
    assert type(seconds) is float
    assert seconds == (value.total_seconds() if isinstance(value, timedelta) else value)
    assert Snooze(value).seconds == Retry(after=value).after == seconds


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "1", None, True, -timedelta(1)])
def test_a_snooze_into_the_past_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidOption, match="Snooze"):
        Snooze(bad)
