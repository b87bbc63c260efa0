"""What is done about a schedule that is due: how much is made up for, and what overlaps."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from soniq.errors import InvalidOption
from soniq.job.schedule import Schedule
from soniq.policy.schedule import AGAIN_SECONDS, MISSED_SECONDS, after_pause, fire, run_at

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def schedule(**changes: Any) -> Schedule:
    """A schedule of every minute, due at noon."""
    made = Schedule(
        name="s", task="t", args={}, queue="default", priority=100, max_attempts=4, timeout=None,
        tags=None, options=None, cron=None, every=60.0, timezone="UTC", jitter=0.0, catch_up="one",
        catch_up_max=100, overlap="allow", owner="user", paused=False, retired_at=None,
        moment=NOON, next_run=NOON, waiting=False, last_moment=None, last_run=None,
        last_job_id=None, runs=0, created_at=NOON, changed_at=NOON, revision=1,
    )  # fmt: skip
    return replace(made, **changes)


def minutes(*numbers: float) -> tuple[datetime, ...]:
    return tuple(NOON + timedelta(minutes=number) for number in numbers)


def test_on_time_one_job_is_made_and_the_next_moment_follows() -> None:
    firing = fire(schedule(), NOON, live=False)
    assert firing.moments == (NOON,)
    assert (firing.moment, firing.next_run, firing.left_out) == (*minutes(1, 1), 0)


@pytest.mark.parametrize("timing", [{"every": 60.0}, {"every": None, "cron": "* * * * *"}])
@pytest.mark.parametrize(
    ("catch_up", "late", "made"),
    [
        ("one", 3.5, minutes(3)),
        ("one", 3, minutes(3)),
        ("skip", 0.5, minutes(0)),
        ("skip", 1.5, minutes(1)),
        ("all", 3.5, minutes(0, 1, 2, 3)),
        ("all", 0, minutes(0)),
        ("all", 500_000, minutes(*range(499_901, 500_001))),
    ],
)
def test_what_was_missed_is_made_up_for_as_it_says(
    timing: dict[str, Any], catch_up: str, late: float, made: tuple[datetime, ...]
) -> None:
    """Even after a year only what is wanted is reckoned."""
    now = NOON + timedelta(minutes=late)
    firing = fire(schedule(catch_up=catch_up, **timing), now, live=False)
    assert firing.moments == made
    assert firing.moment == NOON + timedelta(minutes=int(late) + 1)


def test_of_many_missed_seconds_no_more_are_reckoned_than_are_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A minute was taken for the least gap: for 100 seconds it reckoned 6,000."""
    reckoned: list[datetime] = []

    class Counting(CronSim):
        def __next__(self) -> datetime:
            reckoned.append(super().__next__())
            return reckoned[-1]

    monkeypatch.setattr("soniq.policy.schedule.CronSim", Counting)
    often = schedule(every=None, cron="* * * * * *", catch_up="all")
    assert len(fire(often, NOON + timedelta(days=7), live=False).moments) == 100
    assert len(reckoned) < 200


def test_what_is_too_late_is_skipped() -> None:
    daily = schedule(every=None, cron="0 12 * * *", catch_up="skip")
    late = timedelta(seconds=MISSED_SECONDS)
    assert fire(daily, NOON + late, live=False).moments == (NOON,)
    firing = fire(daily, NOON + late + timedelta(seconds=1), live=False)
    assert firing.moments == ()
    assert (firing.left_out, firing.moment) == (1, NOON + timedelta(days=1))


def test_while_the_job_before_lives_it_is_allowed_skipped_or_waits() -> None:
    now = NOON + timedelta(seconds=1)
    assert fire(schedule(overlap="allow"), now, live=True).moments == (NOON,)
    skipped = fire(schedule(overlap="skip"), now, live=True)
    assert (skipped.moments, skipped.moment, skipped.waiting) == ((), minutes(1)[0], False)
    waits = fire(schedule(overlap="queue"), now, live=True)
    assert (waits.moments, waits.moment, waits.waiting) == ((), NOON, True)
    assert waits.next_run == now + timedelta(seconds=AGAIN_SECONDS)
    for overlap in ("skip", "queue"):
        assert fire(schedule(overlap=overlap), now, live=False).moments == (NOON,)


def test_moments_that_wait_become_one_or_follow_one_another_or_are_not_too_late() -> None:
    now = NOON + timedelta(minutes=3.5)
    waiting = schedule(overlap="queue", waiting=True)
    one = fire(waiting, now, live=False)
    assert (one.moments, one.moment, one.waiting) == (minutes(3), minutes(4)[0], False)
    first = fire(replace(waiting, catch_up="all"), now, live=False)
    assert (first.moments, first.moment, first.waiting) == (minutes(0), minutes(1)[0], True)
    assert first.next_run <= now
    last = fire(replace(waiting, catch_up="all", moment=minutes(3)[0]), now, live=False)
    assert (last.moments, last.moment, last.waiting) == (minutes(3), minutes(4)[0], False)
    hourly = replace(waiting, catch_up="skip", every=3600.0)
    assert fire(hourly, now, live=False).moments == (NOON,)


def test_several_that_were_missed_do_not_overlap_one_another() -> None:
    now = NOON + timedelta(minutes=3.5)
    assert fire(schedule(overlap="skip", catch_up="all"), now, live=False).moments == minutes(3)


@given(
    jitter=st.floats(0, 600),
    catch_up=st.sampled_from(["one", "all", "skip"]),
    steps=st.lists(st.floats(0, 2000), min_size=1, max_size=20),
)
def test_no_moment_is_made_twice_or_before_its_time(
    jitter: float, catch_up: str, steps: list[float]
) -> None:
    """Whatever the clock does between two looks, and however large the jitter."""
    now, made = NOON, list[datetime]()
    current = schedule(jitter=jitter, catch_up=catch_up, catch_up_max=1000)
    current = replace(current, next_run=run_at("s", NOON, jitter))
    expected = NOON
    for step in steps:
        now += timedelta(seconds=step)
        if current.next_run > now:
            continue
        firing = fire(current, now, live=False)
        made += firing.moments
        assert firing.moment > current.moment
        assert firing.next_run >= firing.moment
        current = replace(current, moment=firing.moment, next_run=firing.next_run)
    assert made == sorted(set(made))
    assert all(moment <= now for moment in made)
    if catch_up == "all":
        while expected < current.moment:
            assert expected in made
            expected += timedelta(minutes=1)


def test_a_pause_is_not_made_up_for() -> None:
    assert after_pause(schedule(), NOON - timedelta(seconds=1)) == NOON
    assert after_pause(schedule(), NOON + timedelta(minutes=2.5)) == minutes(3)[0]
    daily = schedule(every=None, cron="0 12 * * *")
    assert after_pause(daily, NOON + timedelta(days=2, hours=1)) == NOON + timedelta(days=3)


def test_what_cannot_be_read_here_is_told() -> None:
    with pytest.raises(InvalidOption, match="No time zone"):
        fire(schedule(timezone="Mars/Olympus"), NOON, live=False)
