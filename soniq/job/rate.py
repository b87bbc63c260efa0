"""How many in how long: `100/minute`, as limits of tasks and queues are written."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InvalidOption, shown

_TEXT = re.compile(r"([1-9]\d{0,8})\s*(?:/|per)\s*([1-9]\d{0,8})?\s*([a-z]+)")
_UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
# What the clock of the database can add up.
_MOST_YEARS, _YEAR = 10, 366 * 86_400.0
_NAMES = {**_UNITS, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True)
class Rate:
    """So many starts in so many seconds.

    Attributes:
        count: How many.
        seconds: In how long.
    """

    count: int
    seconds: float

    def __str__(self) -> str:
        for unit, size in reversed(_UNITS.items()):
            if self.seconds % size == 0:
                number = int(self.seconds / size)
                return f"{self.count}/{unit}" if number == 1 else f"{self.count}/{number} {unit}s"
        return f"{self.count}/{self.seconds:g} seconds"


def checked_rate(value: object) -> Rate:
    """Read `100/minute`, `5/second`, `1000/day` or `10/30 seconds`.

    Raises:
        InvalidOption: It is written in no such way.
    """
    if isinstance(value, Rate):
        return value
    match = _TEXT.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    unit = None if match is None else _NAMES.get(match[3], _NAMES.get(match[3].removesuffix("s")))
    if match is None or unit is None:
        raise InvalidOption(
            f"rate_limit must be a number of starts and a time, such as '100/minute', '5/second' "
            f"or '10/30 seconds', not {shown(value)}."
        )
    rate = Rate(int(match[1]), int(match[2] or 1) * unit)
    if rate.seconds > _MOST_YEARS * _YEAR:
        raise InvalidOption(
            f"The time of rate_limit is at most {_MOST_YEARS} years, not {shown(value)}."
        )
    return rate


def checked_burst(burst: int, rate: Rate) -> int:
    """Refuse what takes longer to fill than the clock of the database can add up.

    Raises:
        InvalidOption: It does.
    """
    if burst * rate.seconds / rate.count > 10 * _MOST_YEARS * _YEAR:
        raise InvalidOption(
            f"rate_burst is at most what comes in {10 * _MOST_YEARS} years; at {rate}, {burst} "
            "do not."
        )
    return burst
