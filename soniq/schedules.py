"""Timings in words, for `@eq.periodic(...)` and `eq.scheduler.add(...)`.

every(5).minutes()                        daily().at("09:00")
weekly().on("monday").at("09:00")         monthly().on_day(15).at("06:30")
cron("*/15 8-18 * * MON-FRI")
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from .errors import InvalidOption, shown
from .job.timing import Cron, Every, Timing

__all__ = ["Cron", "Every", "Timing", "cron", "daily", "every", "hourly", "monthly", "weekly"]

DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
Last: TypeAlias = Literal["last"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A number of something; say of what."""

    count: float

    def seconds(self) -> Every:
        """Every so many seconds."""
        return Every(self.count)

    def minutes(self) -> Every:
        """Every so many minutes."""
        return self._of(60)

    def hours(self) -> Every:
        """Every so many hours."""
        return self._of(3600)

    def days(self) -> Every:
        """Every so many times 24 hours; `daily()` keeps to the clock."""
        return self._of(86_400)

    def weeks(self) -> Every:
        """Every so many times seven days."""
        return self._of(7 * 86_400)

    def _of(self, size: int) -> Every:
        if isinstance(self.count, bool) or not isinstance(self.count, int | float):
            raise InvalidOption(f"every() takes a number, not {shown(self.count)}.")
        return Every(self.count * size)


@dataclass(frozen=True, slots=True)
class Calendar:
    """Days, and a time on them; midnight unless said."""

    day_of_month: str = "*"
    day_of_week: str = "*"
    time: tuple[int, int, int] = (0, 0, 0)

    @property
    def timing(self) -> Cron:
        """The same as a cron expression."""
        hour, minute, second = self.time
        seconds = f"{second} " if second else ""
        return Cron(f"{seconds}{minute} {hour} {self.day_of_month} * {self.day_of_week}")

    def __str__(self) -> str:
        return str(self.timing)


@dataclass(frozen=True, slots=True)
class Days(Calendar):
    """Every day."""

    def at(self, time: str) -> Days:
        """At a time: `09:00`, or `09:00:30`."""
        return replace(self, time=_time(time))


@dataclass(frozen=True, slots=True)
class Weeks(Calendar):
    """Once a week, or on several days of it; on Monday unless said."""

    day_of_week: str = "1"

    def on(self, *days: str) -> Weeks:
        """On days by their English names: `monday`, `fri`."""
        if not days:
            raise InvalidOption("on() needs a day, such as 'monday'.")
        return replace(self, day_of_week=",".join(str(_weekday(day)) for day in days))

    def at(self, time: str) -> Weeks:
        """At a time: `09:00`, or `09:00:30`."""
        return replace(self, time=_time(time))


@dataclass(frozen=True, slots=True)
class Months(Calendar):
    """Once a month; on the first unless said."""

    day_of_month: str = "1"

    def on_day(self, day: int | Last) -> Months:
        """On a day of the month, or on its `last`; months without that day are left out."""
        if day == "last":
            return replace(self, day_of_month="L")
        if isinstance(day, bool) or not isinstance(day, int) or not 1 <= day <= 31:
            raise InvalidOption(f"on_day() takes a day from 1 to 31, or 'last', not {shown(day)}.")
        return replace(self, day_of_month=str(day))

    def at(self, time: str) -> Months:
        """At a time: `09:00`, or `09:00:30`."""
        return replace(self, time=_time(time))


def every(count: float) -> Interval:
    """Begin an interval: `every(5).minutes()`."""
    return Interval(count)


def hourly(minute: int = 0) -> Cron:
    """Once an hour, at a minute of it."""
    if isinstance(minute, bool) or not isinstance(minute, int) or not 0 <= minute <= 59:
        raise InvalidOption(f"hourly() takes a minute from 0 to 59, not {shown(minute)}.")
    return Cron(f"{minute} * * * *")


def daily() -> Days:
    """Once a day: `daily().at("09:00")`."""
    return Days()


def weekly() -> Weeks:
    """Once a week: `weekly().on("monday").at("09:00")`."""
    return Weeks()


def monthly() -> Months:
    """Once a month: `monthly().on_day(15).at("06:30")`."""
    return Months()


def cron(expression: str) -> Cron:
    """Make a timing of a cron expression of five fields, or six with the seconds first."""
    return Cron(expression)


def _time(text: str) -> tuple[int, int, int]:
    parts = text.split(":") if isinstance(text, str) else []
    if len(parts) in {2, 3} and all(part.isascii() and part.isdigit() for part in parts):
        hour, minute, second = (*map(int, parts), *([0] * (3 - len(parts))))
        if hour < 24 and minute < 60 and second < 60:
            return hour, minute, second
    raise InvalidOption(f"at() takes a time such as '09:00' or '23:59:30', not {shown(text)}.")


def _weekday(name: str) -> int:
    wanted = name.strip().lower() if isinstance(name, str) else ""
    if len(wanted) >= 3:
        for number, day in enumerate(DAYS):
            if day.startswith(wanted):
                return number
    raise InvalidOption(f"on() takes days such as 'monday' or 'fri', not {shown(name)}.")
