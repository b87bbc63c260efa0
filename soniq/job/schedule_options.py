"""Options of schedules: checked once, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict, get_args

from ..errors import InvalidOption, UnknownOption, shown
from .names import checked_name
from .options import Seconds, unknown_option
from .outcome import seconds_of
from .record import NewJob
from .schedule import CatchUp, Overlap, Rules
from .timing import Timing, zone_of
from .unique import Key, While

# With `schedule:` before it a name must be a tag.
LONGEST_NAME = 90
MOST_AT_ONCE = 10_000


class ScheduleOptions(TypedDict, total=False):
    """The options of a schedule.

    Attributes:
        every: Seconds between two runs, at least one, or a timedelta; instead of `cron`.
        timezone: The IANA name of the zone whose clock counts; `UTC` unless said.
        jitter: Each run is put off by up to so many seconds; no longer than until the next.
        catch_up: Of moments that passed while no scheduler ran, make up for `one`, for `all`, or
            `skip` them; `one` unless said.
        catch_up_max: With `all`, for so many at most, the latest; 100 unless said.
        overlap: While the job before has not ended, `allow` another, `skip` it, or `queue` it:
            enqueue it when that one has ended; `allow` unless said.
        queue: Where its jobs go; the task's queue unless said.
        priority: 1 (first) to 1000 (last); the task's unless said.
        max_retries: Retries of each job after its first attempt; the task's unless said.
        timeout: Seconds an attempt may take; the task's unless said.
        tags: Words kept with its jobs, beside `schedule:NAME`.
        unique: At most one live job for the same arguments.
        dedup_key: At most one live job of the task with this key; a function of the arguments may
            make it.
        unique_while: The states in which another job is in the way; all of them unless said.
        unique_for: Nor another within so many seconds after an enqueue.
        on_conflict: What becomes of one too many: `skip` it, or `replace` the one that waits.
        merge: With `replace`, `append` or `sum` of arguments, by name.
    """

    every: Seconds | Timing
    timezone: str
    jitter: Seconds
    catch_up: CatchUp
    catch_up_max: int
    overlap: Overlap
    queue: str
    priority: int
    max_retries: int
    timeout: Seconds
    tags: Sequence[str]
    unique: bool
    dedup_key: Key
    unique_while: While
    unique_for: Seconds
    on_conflict: Literal["skip", "replace"]
    merge: Mapping[str, Literal["append", "sum"]]


_RULES = ("every", "timezone", "jitter", "catch_up", "catch_up_max", "overlap")


def checked_rules(timing: Timing, given: ScheduleOptions) -> Rules:
    """Check how a schedule is to run.

    Args:
        timing: When.
        given: The options; those that are about its jobs are not looked at.

    Raises:
        InvalidOption: A value is out of range or of the wrong type.
    """
    timezone = given.get("timezone", "UTC")
    if not isinstance(timezone, str):
        raise InvalidOption(
            f"timezone takes an IANA name such as 'Europe/Berlin', not {shown(timezone)}."
        )
    zone_of(timezone)
    return Rules(
        timing,
        timezone,
        _checked_jitter(given.get("jitter"), timing),
        _one_of(given.get("catch_up", "one"), "catch_up", CatchUp),
        _checked_cap(given.get("catch_up_max", 100)),
        _one_of(given.get("overlap", "allow"), "overlap", Overlap),
    )


def job_options(given: ScheduleOptions) -> dict[str, Any]:
    """Pick the options that are about a schedule's jobs; None is not given.

    Raises:
        UnknownOption: No option has that name.
        InvalidOption: It says when a job runs, as the schedule does.
    """
    for name in given:
        if name in {"scheduled_at", "delay"}:
            raise InvalidOption(f"{name} is not for schedules, which say when by cron= or every=.")
        if name not in ScheduleOptions.__annotations__:
            raise UnknownOption(unknown_option(name, ScheduleOptions.__annotations__))
    return {
        name: value for name, value in given.items() if name not in _RULES and value is not None
    }


def kept_job(job: NewJob) -> NewJob:
    """Make of a job one that can be kept and enqueued again and again.

    Nobody is there to be told that there is such a job already: `raise` becomes `skip`.

    Raises:
        InvalidOption: It merges by a function, which cannot be kept.
    """
    unique = job.placement.unique
    if unique is None:
        return job
    if functions := [name for name, how in unique.merge if callable(how)]:
        raise InvalidOption(
            f"A schedule cannot keep the function that merges {functions[0]!r}. Use 'append' or "
            "'sum', or let the job enqueue another."
        )
    conflict = "skip" if unique.conflict == "raise" else unique.conflict
    placement = replace(job.placement, unique=replace(unique, conflict=conflict))
    return job._replace(placement=placement)


def checked_schedule_name(name: object) -> str:
    """A schedule's name: 1 to 90 characters without NUL."""
    return checked_name(name, "a schedule's name", LONGEST_NAME)


def _checked_jitter(value: Seconds | None, timing: Timing) -> float:
    if not (seconds := seconds_of(0.0 if value is None else value, "jitter")):
        return 0.0
    # Else a run would be put off beyond the next one, and only one of the two be made.
    if seconds > (most := timing.usual_seconds):
        raise InvalidOption(
            f"jitter puts a run off by up to {seconds:g} seconds, and the next one may follow "
            f"after {most:g}. Give no more than that."
        )
    return seconds


def _checked_cap(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_AT_ONCE:
        raise InvalidOption(
            f"catch_up_max must be a whole number from 1 to {MOST_AT_ONCE}, not {shown(value)}."
        )
    return value


def _one_of(value: object, what: str, kind: Any) -> Any:
    if value not in (allowed := get_args(kind)):
        raise InvalidOption(
            f"{what} must be one of {', '.join(map(repr, allowed))}, not {shown(value)}."
        )
    return value
