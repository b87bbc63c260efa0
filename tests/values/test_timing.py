"""Timings: what can be said, what it means, and what is refused."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

import pytest

from soniq.errors import InvalidOption
from soniq.job.schedule_options import checked_rules
from soniq.job.timing import Cron, Every, Timing, timing_of, zone_of
from soniq.schedules import cron, daily, every, hourly, monthly, weekly

SAID = [
    (every(5).minutes(), "every 5 minutes"),
    (every(1).hours(), "every hour"),
    (every(1.5).hours(), "every 90 minutes"),
    (every(30).seconds(), "every 30 s"),
    (every(1).seconds(), "every second"),
    (every(2).days(), "every 2 days"),
    (every(1).weeks(), "every 7 days"),
    (hourly(), "0 * * * *"),
    (hourly(15), "15 * * * *"),
    (daily(), "0 0 * * *"),
    (daily().at("09:00"), "0 9 * * *"),
    (daily().at("9:05"), "5 9 * * *"),
    (daily().at("23:59:30"), "30 59 23 * * *"),
    (weekly(), "0 0 * * 1"),
    (weekly().on("monday").at("09:00"), "0 9 * * 1"),
    (weekly().at("09:00").on("Sunday"), "0 9 * * 0"),
    (weekly().on("mon", "fri").at("18:30"), "30 18 * * 1,5"),
    (monthly(), "0 0 1 * *"),
    (monthly().on_day(15), "0 0 15 * *"),
    (monthly().on_day(31).at("06:30"), "30 6 31 * *"),
    (monthly().on_day("last").at("06:30"), "30 6 L * *"),
    (cron("*/15 8-18 * JAN,feb MON-FRI"), "*/15 8-18 * JAN,feb MON-FRI"),
    (cron("  0   9 * *   MON#2 "), "0 9 * * MON#2"),
    (cron("*/10 * * * * *"), "*/10 * * * * *"),
    (cron("0 0 29 2 *"), "0 0 29 2 *"),
    (cron("0 0 LW * *"), "0 0 LW * *"),
    (cron("0 12 * * 5L"), "0 12 * * 5L"),
]


@pytest.mark.parametrize(("made", "said"), SAID, ids=lambda value: str(value)[:30])
def test_a_builder_makes_a_timing_that_can_be_read(made: Any, said: str) -> None:
    assert str(timing_of(made, None)) == said
    assert timing_of(None, made) == timing_of(made, None)
    assert pickle.loads(pickle.dumps(made)) == made


def test_numbers_and_texts_say_the_same() -> None:
    assert timing_of("0 9 * * *", None) == timing_of(daily().at("09:00"), None)
    assert timing_of(None, 300) == timing_of(None, timedelta(minutes=5)) == every(5).minutes()
    assert timing_of(None, 300) != timing_of(None, 301)


REFUSED: list[tuple[Any, Any, str]] = [
    (None, None, "needs either cron= or every="),
    ("* * * * *", 5, "needs either cron= or every="),
    ("", None, "cannot be read"),
    ("* * * *", None, "wrong number of fields"),
    ("* * * * * * *", None, "wrong number of fields"),
    ("60 * * * *", None, "bad minute"),
    ("* 24 * * *", None, "bad hour"),
    ("* * 0 * *", None, "bad day-of-month"),
    ("* * * 13 *", None, "bad month"),
    ("* * * * 9", None, "bad day-of-week"),
    ("* * * * MON#6", None, "bad day-of-week"),
    ("*/0 * * * *", None, "bad minute"),
    ("0 0 30 2 *", None, "bad day-of-month"),
    ("0 0 31 4,6 1#6", None, "bad day-of-week"),
    ("@daily", None, "wrong number of fields"),
    ("* " * 300, None, "takes an expression"),
    (5, None, "takes an expression"),
    (None, "5", "takes seconds"),
    (None, True, "takes seconds"),
    (None, 0, "between 1 second"),
    (None, 0.999, "between 1 second"),
    (None, timedelta(milliseconds=500), "between 1 second"),
    (None, -5, "between 0 seconds"),
    (None, float("nan"), "between 0 seconds"),
    (None, 20 * 366 * 86_400, "between 1 second and 10 years"),
]


@pytest.mark.parametrize(("cron", "every", "said"), REFUSED, ids=lambda value: str(value)[:20])
def test_what_cannot_be_is_refused_with_the_reason(cron: Any, every: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        timing_of(cron, every)


@pytest.mark.parametrize(
    ("timing", "most"),
    [
        (Every(90), 90),
        (Cron("0 9 * * *"), 86_400),
        (Cron("0 9,10 * * *"), 3600),
        (Cron("*/10 * * * * *"), 10),
        (Cron("0 0 29 2 *"), 4 * 365 * 86_400 + 86_400),
    ],
)
def test_a_run_is_not_put_off_beyond_the_next(timing: Timing, most: float) -> None:
    """Of two moments that were both due by then, `catch_up="one"` made one job."""
    assert checked_rules(timing, {"jitter": most}).jitter == most
    with pytest.raises(InvalidOption, match="may follow after"):
        checked_rules(timing, {"jitter": most + 1})


@pytest.mark.parametrize(
    "make",
    [
        lambda: every(0.5).seconds(),
        lambda: every(0).minutes(),
        lambda: every("5").minutes(),  # type: ignore[arg-type]
        lambda: daily().at("24:00"),
        lambda: daily().at("9"),
        lambda: daily().at("nine"),
        lambda: daily().at("\u0660\u0669:\u0660\u0660"),
        lambda: daily().at("09:60"),
        lambda: daily().at(9),  # type: ignore[arg-type]
        lambda: weekly().on(),
        lambda: weekly().on("mo"),
        lambda: weekly().on("someday"),
        lambda: weekly().on(1),  # type: ignore[arg-type]
        lambda: monthly().on_day(0),
        lambda: monthly().on_day(32),
        lambda: monthly().on_day("first"),  # type: ignore[arg-type]
        lambda: monthly().on_day(True),
        lambda: hourly(60),
        lambda: hourly(-1),
        lambda: hourly(True),
        lambda: hourly("*/5"),  # type: ignore[arg-type]
        lambda: hourly(10**5000),
        lambda: cron("0 9 * *"),
    ],
)
def test_a_builder_refuses_at_once(make: Any) -> None:
    with pytest.raises(InvalidOption):
        timing_of(make(), None)


def test_intervals_are_told_from_times_of_day() -> None:
    """Which decides what a time that exists twice means."""
    for expression in ("*/15 * * * *", "* 2 * * *", "30 * * * *", "0 */2 * * *", "0-59/5 2 * * *"):
        assert Cron(expression).is_interval, expression
    for expression in ("30 2 * * *", "0,30 1-3 * * *", "0 30 2 * * *", "*/10 30 2 * * *"):
        assert not Cron(expression).is_interval, expression


def test_zones_have_their_names_of_iana() -> None:
    assert zone_of("Europe/Berlin") is zone_of("Europe/Berlin")
    for name in ("", "Berlin", "Europe/berlin!", "../etc/passwd", "Mars/Olympus", "a\0b"):
        with pytest.raises(InvalidOption, match=r"No time zone is named .* tzdata"):
            zone_of(name)


def test_an_interval_is_exact() -> None:
    assert Every(1.5).interval == timedelta(milliseconds=1500)
    assert Every(timedelta(days=1)).seconds == 86_400.0  # type: ignore[arg-type]
