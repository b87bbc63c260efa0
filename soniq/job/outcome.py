"""How an attempt ended: what a handler may say about it, and what the worker makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from ..errors import InvalidOption, JobTimeout, shown


class Signal(Exception):
    """The root of what a handler may raise, or return, to bend its job's course."""


class Snooze(Signal):
    """Run this job again later; the attempt does not count.

    Args:
        seconds: How long from now; a `timedelta` is taken too.
    """

    def __init__(self, seconds: float | timedelta) -> None:
        self.seconds = seconds_of(seconds, "Snooze(seconds)")
        super().__init__(f"snoozed for {self.seconds:g} s")


class Retry(Signal):
    """Fail this attempt, and choose when the next one runs.

    Args:
        after: Seconds or a `timedelta`; None leaves it to the task's retry options.
        reason: Kept with the attempt.
    """

    def __init__(self, after: float | timedelta | None = None, reason: str = "") -> None:
        self.after = None if after is None else seconds_of(after, "Retry(after=)")
        self.reason = _said(reason)
        super().__init__(self.reason or "the handler asked for a retry")


class Cancel(Signal):
    """End this job as cancelled.

    Args:
        reason: Kept with the job.
    """

    def __init__(self, reason: str = "") -> None:
        self.reason = _said(reason)
        super().__init__(self.reason or "the handler cancelled the job")


class Discard(Signal):
    """Make this job a dead letter now, whatever attempts are left.

    Args:
        reason: Kept with the dead letter.
    """

    def __init__(self, reason: str = "") -> None:
        self.reason = _said(reason)
        super().__init__(self.reason or "the handler discarded the job")


def _said(reason: object) -> str:
    return reason if isinstance(reason, str) else shown(reason)


def seconds_of(value: float | timedelta, what: str) -> float:
    """Turn seconds or a `timedelta` into seconds.

    Raises:
        InvalidOption: Negative, not finite, or no number.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidOption(f"{what} takes seconds or a timedelta, not {shown(value)}.")
    if not 0 <= value <= 3_155_760_000:
        raise InvalidOption(f"{what} must be between 0 seconds and 100 years, not {shown(value)}.")
    return float(value)


# -- what the worker saw


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned; its result as JSON text, None for None."""

    result: str | None


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler failed, or asked for something by a `Signal`."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The attempt outlived its timeout."""

    seconds: float

    def error(self) -> JobTimeout:
        """Make the error that hooks are told and that is kept with the attempt."""
        return JobTimeout(f"The attempt took longer than its timeout of {self.seconds:g} s.")


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Somebody cancelled the job while it ran, and the handler stopped for it."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The worker is stopping; the handler was cut short, or never started."""


@dataclass(frozen=True, slots=True)
class AlreadyWritten:
    """The handler finished its job within its own transaction."""


Ending: TypeAlias = Returned | Raised | TimedOut | CancelAsked | Interrupted | AlreadyWritten
