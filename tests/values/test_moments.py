"""The moments of a schedule: what clocks that are put forward and back do to them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soniq.job.timing import Cron, Every
from soniq.policy.schedule import first_after, moments_after, run_at

MINUTE = timedelta(minutes=1)
SOME_TIME = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1))  # noqa: DTZ001

# A gap and an overlap of each: an hour in the night; at midnight; half an hour; a whole day.
CHANGES = {
    "Europe/Berlin": ("2025-03-30T01:00", "2025-10-26T01:00"),
    "America/New_York": ("2025-03-09T07:00", "2025-11-02T06:00"),
    "America/Santiago": ("2025-09-07T04:00", "2025-04-06T03:00"),
    "Australia/Lord_Howe": ("2025-10-04T15:30", "2025-04-05T15:00"),
    "Pacific/Apia": ("2011-12-30T10:00", "2012-03-31T14:00"),
}
MOMENTS = [
    (zone, datetime.fromisoformat(moment).replace(tzinfo=UTC))
    for zone, moments in CHANGES.items()
    for moment in moments
]


@cache
def walls(zone: str, start: datetime, end: datetime) -> tuple[tuple[datetime, datetime], ...]:
    """Give every minute, and what the clock shows then."""
    minutes = int((end - start) / MINUTE)
    moments = (start + MINUTE * n for n in range(minutes))
    return tuple((moment, moment.astimezone(ZoneInfo(zone))) for moment in moments)


def told(
    zone: str, minutes: set[int], hours: set[int], start: datetime, end: datetime, how: str
) -> list[datetime]:
    """Say the rule minute by minute, in the plainest way."""

    def matches(wall: datetime) -> bool:
        return wall.minute in minutes and wall.hour in hours

    found = []
    before: datetime | None = None
    for moment, shown in walls(zone, start, end):
        wall = shown.replace(tzinfo=None)
        leapt = []
        if before is not None and wall > before + MINUTE:
            missing = int((wall - before) / MINUTE)
            leapt = [before + MINUTE * n for n in range(1, missing)]
        if (matches(wall) and (how != "time" or not shown.fold)) or (
            how != "hourly" and any(map(matches, leapt))
        ):
            found.append(moment)
        before = wall
    return found


fields = st.sets(st.integers(0, 59), min_size=1, max_size=4)
clocks = st.sets(st.integers(0, 23), min_size=1, max_size=6)


@pytest.mark.parametrize(("zone", "change"), MOMENTS, ids=str)
@settings(max_examples=20)
@given(minutes=fields, hours=clocks, how=st.sampled_from(["time", "interval", "hourly"]))
def test_every_moment_is_one_of_the_rule_said_minute_by_minute(
    zone: str, change: datetime, minutes: set[int], hours: set[int], how: str
) -> None:
    start, end = change - timedelta(hours=30), change + timedelta(hours=30)
    text = ",".join(map(str, sorted(minutes)))
    hour_text = ",".join(map(str, sorted(hours)))
    match how:
        case "time":
            cron = Cron(f"{text} {hour_text} * * *")
            if len(hours) == 24:
                return
        case "interval":
            minutes = set(range(0, 60, 7))
            cron = Cron(f"*/7 {hour_text} * * *")
        case _:
            hours = set(range(24))
            cron = Cron(f"{text} * * * *")
    expected = told(zone, minutes, hours, start, end, how)
    got = []
    moment = start - MINUTE
    while (moment := first_after(cron, ZoneInfo(zone), moment, moment)) < end:
        got.append(moment)
    assert got == [each for each in expected if each >= start]


@pytest.mark.parametrize(
    ("zone", "expression", "start", "expected"),
    [
        # 02:30 does not exist: when the clock has leapt, once, and at its own time the day after.
        ("Europe/Berlin", "30 2 * * *", "2025-03-29T12:00", ["30T03:00+02", "31T02:30+02"]),
        ("Europe/Berlin", "15,45 2 * * *", "2025-03-29T12:00", ["30T03:00+02", "31T02:15+02"]),
        ("Europe/Berlin", "30 2,3 * * *", "2025-03-29T12:00", ["30T03:00+02", "30T03:30+02"]),
        ("Europe/Berlin", "0 3 * * *", "2025-03-29T12:00", ["30T03:00+02", "31T03:00+02"]),
        ("Europe/Berlin", "0 30 2 * * *", "2025-03-29T12:00", ["30T03:00+02", "31T02:30+02"]),
        ("Europe/Berlin", "*/20 2 * * *", "2025-03-29T12:00", ["30T03:00+02", "31T02:00+02"]),
        # 02:30 exists twice: once for a time of day, each time for an interval.
        ("Europe/Berlin", "30 2 * * *", "2025-10-25T12:00", ["26T02:30+02", "27T02:30+01"]),
        ("Europe/Berlin", "0 30 2 * * *", "2025-10-25T12:00", ["26T02:30+02", "27T02:30+01"]),
        ("Europe/Berlin", "*/30 2 * * *", "2025-10-25T12:00",
         ["26T02:00+02", "26T02:30+02", "26T02:00+01", "26T02:30+01", "27T02:00+01"]),
        ("Europe/Berlin", "30 * * * *", "2025-10-25T22:45",
         ["26T01:30+02", "26T02:30+02", "26T02:30+01", "26T03:30+01"]),
        # From within the second time: what ran the first time does not run again.
        ("Europe/Berlin", "30 2 * * *", "2025-10-26T01:10", ["27T02:30+01", "28T02:30+01"]),
        ("America/New_York", "30 1 * * *", "2025-11-02T06:10", ["03T01:30-05"]),
        # Midnight does not exist in Santiago, half an hour on Lord Howe, a Friday in Samoa.
        ("America/Santiago", "0 0 * * *", "2025-09-06T12:00", ["07T01:00-03", "08T00:00-03"]),
        ("Australia/Lord_Howe", "15 2 * * *", "2025-10-03T20:00", ["05T02:30+11", "06T02:15+11"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2025-04-05T10:00",
         ["06T01:45+11", "07T01:45+10:30"]),
        ("Pacific/Apia", "0 9 * * FRI", "2011-12-24T00:00", ["31T00:00+14", "06T09:00+14"]),
    ],
)  # fmt: skip
def test_the_written_rule(zone: str, expression: str, start: str, expected: list[str]) -> None:
    moment = datetime.fromisoformat(start).replace(tzinfo=UTC)
    got = []
    for _ in expected:
        moment = first_after(Cron(expression), ZoneInfo(zone), moment, moment)
        local = moment.astimezone(ZoneInfo(zone))
        offset = local.strftime("%z")
        hours = f"{offset[:3]}:{offset[3:]}".removesuffix(":00")
        got.append(local.strftime("%dT%H:%M") + hours)
    assert got == expected


def test_an_interval_counts_seconds_whatever_the_clocks_do() -> None:
    start = datetime(2025, 3, 29, 20, tzinfo=UTC)
    moments = list(islice(moments_after(Every(7200), ZoneInfo("Europe/Berlin"), start), 12))
    assert all(after - before == timedelta(hours=2) for before, after in pairwise(moments))


@given(
    every=st.integers(1, 100_000),
    base=SOME_TIME,
    passed=st.floats(0, 1e9),
)
def test_an_interval_keeps_to_its_grid(every: int, base: datetime, passed: float) -> None:
    base = base.replace(tzinfo=UTC)
    moment = base + timedelta(seconds=passed)
    following = first_after(Every(every), UTC, moment, base)
    assert moment < following <= moment + timedelta(seconds=every)
    assert (following - base) % timedelta(seconds=every) == timedelta()


@given(
    expression=st.sampled_from(
        ["* * * * *", "*/7 * * * *", "0 0 L * *", "0 9 * * MON#2", "0 0 29 2 *", "5 4 1 * *",
         "0 22 * * 5L", "0 0 LW * *", "*/5 * * * * *", "0 12 * 6-8 SAT,SUN"]
    ),
    zone=st.sampled_from(sorted(CHANGES)),
    start=SOME_TIME,
)  # fmt: skip
def test_moments_only_grow(expression: str, zone: str, start: datetime) -> None:
    moments = [start.replace(tzinfo=UTC)]
    for _ in range(5):
        moments.append(first_after(Cron(expression), ZoneInfo(zone), moments[-1], moments[-1]))
    assert all(before < after for before, after in pairwise(moments))


@given(
    name=st.text(min_size=1, max_size=30),
    start=SOME_TIME,
    jitter=st.floats(0, 86_400),
)
def test_jitter_is_the_same_for_whoever_reckons_it(
    name: str, start: datetime, jitter: float
) -> None:
    moment = start.replace(tzinfo=UTC)
    run = run_at(name, moment, jitter)
    assert moment <= run <= moment + timedelta(seconds=jitter)
    assert run == run_at(name, moment.astimezone(ZoneInfo("Asia/Kathmandu")), jitter)


def test_jitter_spreads_schedules_of_one_moment() -> None:
    moment = datetime(2025, 1, 1, tzinfo=UTC)
    offsets = sorted((run_at(f"s{n}", moment, 60) - moment).total_seconds() for n in range(200))
    assert offsets[0] < 5
    assert offsets[-1] > 55
    assert len(set(offsets)) == 200
