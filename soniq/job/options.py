"""Options of tasks and of single enqueues: checked once, before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any, Protocol, TypeAlias, runtime_checkable

from ..errors import InvalidOption, UnknownOption, shown
from .limits import Limits
from .names import checked_name
from .outcome import seconds_of
from .record import Job
from .unique import UNIQUE_OPTIONS, UniqueOptions, unique_options

Seconds: TypeAlias = float | timedelta
Errors: TypeAlias = tuple[type[BaseException], ...]


@runtime_checkable
class RetryPolicy(Protocol):
    """Decides when a failed job runs again."""

    def __call__(self, error: BaseException, attempt: int, job: Job) -> float | None:
        """Return seconds until the next attempt, or None for no more.

        Args:
            error: What the attempt failed with.
            attempt: How many attempts have failed; the first failure is 1.
            job: The job as it was claimed.
        """


@dataclass(frozen=True, slots=True)
class RetryRule:
    """The delays that `retry_delay`, `retry_backoff`, `retry_max_delay` and `retry_jitter` say.

    Attributes:
        delays: Seconds before retry 1, 2, ...; the last repeats.
        backoff: Double from retry to retry.
        max_delay: No delay is longer, in seconds; None is no cap.
        jitter: Half of each delay is left to chance.
    """

    delays: tuple[float, ...] = (1.0,)
    backoff: bool = True
    max_delay: float | None = 3600.0
    jitter: bool = True


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a task declares; the worker that runs it applies these."""

    queue: str = "default"
    priority: int = 100
    max_retries: int | None = None
    retry: RetryRule = RetryRule()
    retry_policy: RetryPolicy | Callable[..., float | None] | None = None
    retry_on: Errors | None = None
    discard_on: Errors = ()
    timeout: float | None = None
    no_timeout: bool = False
    executor: str = "auto"
    tags: tuple[str, ...] | None = None
    unique: UniqueOptions | None = None
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class EnqueueOptions:
    """What one enqueue asks for; None leaves it to the task or the default.

    Attributes:
        due: A moment, or seconds from now; None is now.
    """

    queue: str | None = None
    priority: int | None = None
    due: datetime | float | None = None
    max_retries: int | None = None
    timeout: float | None = None
    tags: tuple[str, ...] | None = None
    unique: UniqueOptions | None = None

    def over(self, base: EnqueueOptions) -> EnqueueOptions:
        """Lay these options over others: what is given here wins."""
        given = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}
        if self.unique is not None:
            given["unique"] = self.unique.over(base.unique)
        return replace(base, **given)


PLAIN = EnqueueOptions()
"""Nothing asked for; one object, so that it can be told at a glance."""

ENQUEUE_OPTIONS = (
    "queue", "priority", "scheduled_at", "delay", "max_retries", "timeout", "tags", *UNIQUE_OPTIONS,
)  # fmt: skip


def enqueue_options(given: Mapping[str, Any]) -> EnqueueOptions:
    """Check the options of one enqueue.

    Raises:
        UnknownOption: No option has that name.
        InvalidOption: A value is out of range or of the wrong type.
    """
    if not given:
        return PLAIN
    for name in given:
        if name not in ENQUEUE_OPTIONS:
            raise UnknownOption(unknown_option(name, ENQUEUE_OPTIONS))
    value = given.get
    return EnqueueOptions(
        queue=_given(checked_queue, value("queue")),
        priority=_given(checked_priority, value("priority")),
        due=checked_due(value("scheduled_at"), value("delay")),
        max_retries=_given(checked_retries, value("max_retries")),
        timeout=_given(checked_timeout, value("timeout")),
        tags=_given(checked_tags, value("tags")),
        unique=unique_options(given),
    )


def retry_rule(
    delay: Seconds | Iterable[Seconds] | None,
    backoff: bool | None,
    max_delay: Seconds | None,
    jitter: bool | None,
) -> RetryRule:
    """Read the retry options of a task; nothing given is exponential from 1 s with jitter.

    Raises:
        InvalidOption: A delay is negative or no number, or a list is given with backoff.
    """
    for name, said in (("retry_backoff", backoff), ("retry_jitter", jitter)):
        if said is not None and not isinstance(said, bool):
            raise InvalidOption(f"{name} is True or False, not {shown(said)}.")
    cap = None if max_delay is None else seconds_of(max_delay, "retry_max_delay")
    if delay is None:
        cap = 3600.0 if cap is None else cap
        return RetryRule((1.0,), backoff is not False, cap, jitter is not False)
    if isinstance(delay, Iterable) and not isinstance(delay, str | bytes | Mapping):
        delays = tuple(seconds_of(each, "retry_delay") for each in delay)
        if not delays:
            raise InvalidOption("retry_delay is an empty list. Leave it out, or give seconds.")
        if backoff:
            raise InvalidOption("A list in retry_delay says every delay; leave retry_backoff out.")
        return RetryRule(delays, False, cap, bool(jitter))
    each = seconds_of(delay, "retry_delay")  # type: ignore[arg-type]
    return RetryRule((each,), bool(backoff), cap, bool(jitter))


def unknown_option(name: str, known: Iterable[str]) -> str:
    """Word the complaint about an option nobody knows."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
    return f"There is no option named {shown(name)}. {hint}"


def checked_queue(value: object) -> str:
    """A queue's name: 1 to 128 characters without NUL."""
    return checked_name(value, "queue", 128)


def checked_priority(value: object) -> int:
    """A priority: 1 (first) to 1000 (last)."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise InvalidOption(
            f"priority must be a whole number from 1 (first) to 1000 (last), not {shown(value)}."
        )
    return int(value)


def checked_retries(value: object) -> int:
    """Retries after the first attempt: 0 to 10,000."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10_000:
        raise InvalidOption(
            f"max_retries must be a whole number from 0 to 10000, not {shown(value)}."
        )
    return int(value)


def checked_timeout(value: Seconds) -> float:
    """Seconds an attempt may take; 0 is no limit."""
    return seconds_of(value, "timeout")


def checked_tags(value: object) -> tuple[str, ...]:
    """Up to 50 words of 1 to 100 characters."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidOption(f"tags must be a list of words, not {shown(value)}.")
    tags = tuple(checked_name(tag, "a tag", 100) for tag in value)
    if len(tags) > 50:
        raise InvalidOption(f"A job takes at most 50 tags, not {len(tags)}.")
    return tags


def checked_due(scheduled_at: object, delay: object) -> datetime | float | None:
    """The moment a job is due, from `scheduled_at` or `delay`."""
    if scheduled_at is not None and delay is not None:
        raise InvalidOption("Give scheduled_at or delay, not both.")
    if delay is not None:
        return seconds_of(delay, "delay")  # type: ignore[arg-type]
    if scheduled_at is None:
        return None
    return checked_moment(scheduled_at, "scheduled_at")


def checked_moment(value: object, what: str) -> datetime:
    """An aware moment of the years 2 to 9998, in UTC."""
    if not isinstance(value, datetime):
        raise InvalidOption(f"{what} must be a datetime, not {shown(value)}.")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidOption(
            f"{what} {value.isoformat()} has no time zone, so it names no moment. "
            "Use datetime.now(UTC) or give it a tzinfo."
        )
    try:
        moment = value.astimezone(UTC)
    except OverflowError:
        moment = datetime.max.replace(tzinfo=UTC)
    # A year of room at both ends: a record is read in whatever time zone its reader's session has.
    if not 2 <= moment.year <= 9998:
        raise InvalidOption(f"{what} {value.isoformat()} is outside of the years 2 to 9998.")
    return moment


def _given(check: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else check(value)
