"""A queue as the database tells of it, and what may be said about one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import EllipsisType
from typing import Any, Literal, TypeAlias

from ..errors import InvalidOption, shown
from .options import Seconds
from .outcome import seconds_of
from .rate import Rate, checked_burst, checked_rate
from .record import Record, moment

OnFull: TypeAlias = Literal["raise", "drop_oldest", "wait"]
ON_FULL = ("raise", "drop_oldest", "wait")

# `...` is "as it was", None is "no longer".
Number: TypeAlias = int | EllipsisType | None
MOST = 2_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class QueueStats(Record):
    """How one queue stands at this moment, and what was said about it.

    Attributes:
        queue: Its name.
        scheduled: Jobs whose moment has not come.
        queued: Jobs that wait for a worker.
        processing: Jobs that run.
        dead_letters: Jobs of this queue that died and were not deleted.
        oldest_seconds: How long the longest-waiting queued job has been due; None if none waits.
        paused: Whether workers leave it alone.
        paused_until: When that ends by itself; None if it does not.
        rate: Attempts that ended per second, as of the last signs of life of the workers.
        workers: Live workers that serve it.
        concurrency: Jobs of it that may run at once, over all workers; None is no limit.
        rate_limit: How many may start in which time: `100/minute`; None is no limit.
        rate_burst: How many may start at once after a rest.
        max_depth: Jobs that may wait in it; None is no limit.
        on_full: What becomes of one too many: `raise`, `drop_oldest` or `wait`.
        aging: Seconds a job waits before its priority rises by one; None is for ever.
    """

    queue: str
    scheduled: int
    queued: int
    processing: int
    dead_letters: int
    oldest_seconds: float | None
    paused: bool
    paused_until: datetime | None = None
    rate: float = 0.0
    workers: int = 0
    concurrency: int | None = None
    rate_limit: str | None = None
    rate_burst: int | None = None
    max_depth: int | None = None
    on_full: OnFull | None = None
    aging: float | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> QueueStats:
        """Read a row that the database wrote as a JSON object."""
        limits = Limits.of(data)
        oldest = data["oldest_seconds"]
        return cls(
            queue=data["queue"],
            scheduled=data["scheduled"],
            queued=data["queued"],
            processing=data["processing"],
            dead_letters=data["dead_letters"],
            oldest_seconds=None if oldest is None else max(0.0, float(oldest)),
            paused=data["paused"],
            paused_until=moment(data["paused_until"]) if data["paused"] else None,
            rate=float(data["rate"]),
            workers=data["workers"],
            concurrency=limits.concurrency,
            rate_limit=None if limits.rate is None else str(limits.rate),
            rate_burst=limits.rate_burst,
            max_depth=limits.max_depth,
            on_full=limits.on_full,
            aging=limits.aging,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What was said about a queue; None is not said.

    Attributes:
        concurrency: Jobs that may run at once.
        rate: How many may start in which time.
        rate_burst: How many may start at once after a rest.
        max_depth: Jobs that may wait.
        on_full: What becomes of one too many.
        aging: Seconds of waiting for one step of priority.
    """

    concurrency: int | None = None
    rate: Rate | None = None
    rate_burst: int | None = None
    max_depth: int | None = None
    on_full: OnFull | None = None
    aging: float | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Limits:
        """Read the columns of a row."""
        count = data["rate_count"]
        return cls(
            data["concurrency"],
            None if count is None else Rate(count, float(data["rate_seconds"])),
            data["rate_burst"],
            data["max_depth"],
            data["on_full"],
            data["aging_seconds"],
        )

    def changed(self, changes: Mapping[str, Any]) -> Limits:
        """Say some of it anew.

        Raises:
            InvalidOption: What is left would mean nothing: a burst without a rate, say.
        """
        after = {name: changes.get(name, getattr(self, name)) for name in self.__slots__}
        if after["rate"] is None:
            _refuse(changes, "rate_burst", "rate_limit")
            after["rate_burst"] = None
        elif after["rate_burst"] is not None:
            checked_burst(after["rate_burst"], after["rate"])
        if after["max_depth"] is None:
            _refuse(changes, "on_full", "max_depth")
            after["on_full"] = None
        elif after["on_full"] is None:
            after["on_full"] = "raise"
        return Limits(**after)

    def columns(self) -> dict[str, object]:
        """Name the values as the table does."""
        return {
            "concurrency": self.concurrency,
            "rate_count": None if self.rate is None else self.rate.count,
            "rate_seconds": None if self.rate is None else self.rate.seconds,
            "rate_burst": self.rate_burst,
            "max_depth": self.max_depth,
            "on_full": self.on_full,
            "aging_seconds": self.aging,
        }


def checked_limits(
    *,
    concurrency: Number,
    rate_limit: str | Rate | EllipsisType | None,
    rate_burst: Number,
    max_depth: Number,
    on_full: str | EllipsisType | None,
    aging: Seconds | EllipsisType | None,
) -> dict[str, Any]:
    """Check what is to be said about a queue; answer what was given, `...` being not given.

    Raises:
        InvalidOption: A value is out of range or of the wrong type, or nothing was given.
    """
    given = {
        "concurrency": _or_none(concurrency, lambda value: _whole(value, "concurrency")),
        "rate": _or_none(rate_limit, checked_rate),
        "rate_burst": _or_none(rate_burst, lambda value: _whole(value, "rate_burst")),
        "max_depth": _or_none(max_depth, lambda value: _whole(value, "max_depth")),
        "on_full": _or_none(on_full, _on_full),
        "aging": _or_none(aging, _aging),
    }
    changes = {name: value for name, value in given.items() if value is not ...}
    if not changes:
        raise InvalidOption(
            "limit() needs something to change: concurrency=, rate_limit=, rate_burst=, "
            "max_depth=, on_full= or aging=; None takes one away."
        )
    return changes


def _or_none(value: Any, check: Any) -> Any:
    return value if value is None or value is ... else check(value)


def _whole(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise InvalidOption(f"{what} must be a whole number from 1 to {MOST}, not {shown(value)}.")
    return value


def _on_full(value: object) -> str:
    if value not in ON_FULL:
        raise InvalidOption(f"on_full must be one of {', '.join(ON_FULL)}, not {shown(value)}.")
    return str(value)


def _aging(value: Any) -> float:
    seconds = seconds_of(value, "aging")
    if seconds < 1:
        raise InvalidOption(f"aging must be at least one second, not {shown(value)}.")
    return seconds


def _refuse(changes: Mapping[str, Any], option: str, needed: str) -> None:
    if changes.get(option) is not None:
        raise InvalidOption(f"{option} means nothing without {needed}; give that too.")
