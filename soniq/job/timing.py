"""When a schedule runs, as a value: a cron expression, or an interval."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import islice, pairwise
from typing import TypeAlias

from cronsim import CronSim, CronSimError

from ..errors import InvalidOption, shown
from .outcome import seconds_of

LEAST_SECONDS = 1.0
LONGEST_SECONDS = 10 * 366 * 86_400.0

# A day that has everything but a 29th of February; the next one is within four years of it.
_SOME_DAY = datetime(2025, 1, 1)  # noqa: DTZ001  clocks on walls have no zone


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression of five fields, or of six with the seconds first.

    Raises:
        InvalidOption: It cannot be read, or names a moment that never comes.
    """

    expression: str

    def __post_init__(self) -> None:
        text = self.expression
        if not isinstance(text, str) or len(text) > 500:
            raise InvalidOption(
                f"cron takes an expression such as '0 9 * * MON', not {shown(text)}."
            )
        try:
            next(CronSim(text, _SOME_DAY))
        except CronSimError as error:
            raise InvalidOption(_unreadable(text, str(error))) from None
        except (StopIteration, OverflowError):
            raise InvalidOption(
                f"The cron expression {shown(text)} names a moment that never comes."
            ) from None
        object.__setattr__(self, "expression", " ".join(text.split()))

    def __str__(self) -> str:
        return self.expression

    @property
    def _minutes_and_hours(self) -> tuple[str, str]:
        minutes, hours = self.expression.split()[-5:-3]
        return minutes, hours

    @property
    def least_seconds(self) -> float:
        """How many seconds lie between two of its moments at least, whatever the clocks do."""
        return 1.0 if len(self.expression.split()) == 6 else 60.0

    @property
    def usual_seconds(self) -> float:
        """How many seconds lie between two of its moments at least, as long as clocks run on."""
        walls = list(islice(CronSim(self.expression, _SOME_DAY), 10))
        return min((after - before).total_seconds() for before, after in pairwise(walls))

    @property
    def is_interval(self) -> bool:
        """Whether it says how often rather than at what time: `*` or a step in minutes or hours."""
        minutes, hours = self._minutes_and_hours
        return bool(re.search(r"[*/]", minutes + hours)) or self.is_hourly

    @property
    def is_hourly(self) -> bool:
        """Whether it runs in every hour, so that an hour that is left out leaves out nothing."""
        return self._minutes_and_hours[1] in {"*", "*/1", "0-23"}


@dataclass(frozen=True, slots=True)
class Every:
    """An interval in seconds, of time that passes, whatever the clocks do.

    Raises:
        InvalidOption: It is shorter than a second, or no interval at all.
    """

    seconds: float

    def __post_init__(self) -> None:
        seconds = seconds_of(self.seconds, "every")
        if not LEAST_SECONDS <= seconds <= LONGEST_SECONDS:
            raise InvalidOption(
                f"every must be between 1 second and 10 years, not {shown(self.seconds)}. "
                "For what is quicker, let one job work in a loop."
            )
        object.__setattr__(self, "seconds", seconds)

    def __str__(self) -> str:
        for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
            if self.seconds % size == 0:
                count = int(self.seconds // size)
                return f"every {unit}" if count == 1 else f"every {count} {unit}s"
        return "every second" if self.seconds == 1 else f"every {self.seconds:g} s"

    @property
    def least_seconds(self) -> float:
        """How many seconds lie between two of its moments."""
        return self.seconds

    @property
    def usual_seconds(self) -> float:
        """The same."""
        return self.seconds

    @property
    def interval(self) -> timedelta:
        """The interval."""
        return timedelta(seconds=self.seconds)


Timing: TypeAlias = Cron | Every


def timing_of(cron: object, every: object) -> Timing:
    """Read the timing from `cron` and `every`, of which one is given.

    Args:
        cron: A cron expression, or what a builder of `soniq.schedules` made.
        every: Seconds, a timedelta, or the same.

    Raises:
        InvalidOption: None or both are given, or it cannot be.
    """
    if (cron is None) is (every is None):
        raise InvalidOption(
            "A schedule needs either cron= or every=: cron='0 9 * * *', every=300, or what "
            "soniq.schedules makes, such as daily().at('09:00')."
        )
    given = every if cron is None else cron
    if isinstance(made := getattr(given, "timing", given), Cron | Every):
        return made
    return Every(given) if cron is None else Cron(given)  # type: ignore[arg-type]


@lru_cache(maxsize=256)
def zone_of(name: str) -> tzinfo:
    """Find a time zone by its IANA name, such as `Europe/Berlin`.

    Raises:
        InvalidOption: There is none of that name.
    """
    if name == "UTC":  # needs no data
        return UTC
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError):
        raise InvalidOption(
            f"No time zone is named {shown(name)}. Names are those of IANA, such as "
            "'Europe/Berlin'; a system without them needs `pip install tzdata`."
        ) from None


def _unreadable(text: str, why: str) -> str:
    return (
        f"The cron expression {shown(text)} cannot be read: {why[:1].lower()}{why[1:]}. "
        "It has five fields (minute, hour, day of month, month, day of week), or six with the "
        "seconds first."
    )
