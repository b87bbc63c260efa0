"""When a schedule runs: its moments, what summer time does to them, and what to do when late.

The rule for clocks that are put forward or back, in the schedule's time zone:

- A time that does not exist, because the clock leaps over it, runs at the next moment that does:
  when the clock has leapt. Several such times run once. (A schedule of every hour leaves out the
  hour that is left out.)
- A time that exists twice runs once, the first time, if the schedule names a time of day (`30 1 *
  * *`); and each time if it names an interval: `*` or a step in the minutes or the hours.
- `every=` counts seconds that pass, and does not know what clocks show.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from hashlib import sha256
from itertools import chain

from cronsim import CronSim

from ..job.schedule import Schedule
from ..job.timing import Cron, Every, Timing, zone_of

# With catch_up="skip" a moment counts as missed when it is so long past: no scheduler is that slow
# while it runs, and one that was restarted may still run what fell due meanwhile.
MISSED_SECONDS = 60.0
# How soon a run that waits for the one before (overlap="queue") is looked at again.
AGAIN_SECONDS = 1.0

_TINY = timedelta(microseconds=1)
_DAY = timedelta(days=1)


def first_after(timing: Timing, zone: tzinfo, moment: datetime, base: datetime) -> datetime:
    """Find the first moment of a schedule after a moment.

    Args:
        timing: How often.
        zone: Where the clock hangs.
        moment: Any moment, aware.
        base: A moment of the schedule, from which an interval is counted.
    """
    match timing:
        case Every():
            interval = timing.interval
            return base + interval * ((moment - base) // interval + 1)
        case Cron():
            return _next_of(timing, zone, moment.astimezone(UTC))


def moments_after(timing: Timing, zone: tzinfo, moment: datetime) -> Iterator[datetime]:
    """Give the moments that follow a moment of the schedule, to the end of the calendar."""
    with suppress(OverflowError):
        while True:
            moment = first_after(timing, zone, moment, moment)
            yield moment


def run_at(name: str, moment: datetime, jitter_seconds: float) -> datetime:
    """Put a moment off by the part of the jitter that falls to it, the same for whoever asks."""
    if not jitter_seconds:
        return moment
    digest = sha256(f"{name}\0{moment.astimezone(UTC).isoformat()}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return moment + timedelta(seconds=jitter_seconds * share)


# -- clocks


def _next_of(cron: Cron, zone: tzinfo, after: datetime) -> datetime:
    """Find the next moment, from one change of the clock to the next: between them all is simple.

    Args:
        cron: The expression.
        zone: The clock.
        after: In UTC.
    """
    at, inclusive = after, False
    while True:
        offset = _offset(zone, at)
        wall = _next_wall(cron, (at + offset).replace(tzinfo=None), inclusive=inclusive)
        moment = _moment(wall, offset)
        changed = _change(zone, at, moment)
        if changed is None:
            if cron.is_interval or not moment.astimezone(zone).fold:
                return moment
            at, inclusive = moment, False  # the second time: it ran the first time
            continue
        leapt_to = (changed + _offset(zone, changed)).replace(tzinfo=None)
        if wall < leapt_to and not cron.is_hourly:
            return changed
        at, inclusive = changed, True


def _next_wall(cron: Cron, wall: datetime, *, inclusive: bool) -> datetime:
    return next(CronSim(cron.expression, wall - _TINY if inclusive else wall))


def _offset(zone: tzinfo, moment: datetime) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def _moment(wall: datetime, offset: timedelta) -> datetime:
    return (wall - offset).replace(tzinfo=UTC)


def _change(zone: tzinfo, after: datetime, until: datetime) -> datetime | None:
    """Find the first moment after one and up to another at which the clock is put; to the second.

    No clock is put forward and back within a day.
    """
    if zone is UTC:
        return None
    offset = _offset(zone, after)
    low, high = after, min(after + _DAY, until)
    while _offset(zone, high) == offset:
        if high == until:
            return None
        low, high = high, min(high + _DAY, until)
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        if _offset(zone, middle) == offset:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


# -- what to do now


@dataclass(frozen=True, slots=True)
class Firing:
    """What is to be done about a schedule that is due.

    Attributes:
        moments: Those for which a job is made, in order.
        left_out: How many moments are past for which none is made.
        moment: The next one.
        next_run: When it is looked at again.
        waiting: Whether `moment` is past and waits for the job before to end.
    """

    moments: tuple[datetime, ...]
    left_out: int
    moment: datetime
    next_run: datetime
    waiting: bool = False


def fire(schedule: Schedule, now: datetime, *, live: bool) -> Firing:
    """Decide what to do about a schedule that is due.

    Args:
        schedule: As the database has it.
        now: By the database's clock.
        live: Whether a job it made before has not ended.

    Raises:
        InvalidOption: Its time zone or timing cannot be read here.
    """
    zone = zone_of(schedule.timezone)
    if live and schedule.overlap == "queue":
        again = now + timedelta(seconds=AGAIN_SECONDS)
        return Firing((), 0, schedule.moment, again, waiting=True)
    cap = schedule.catch_up_max if schedule.catch_up == "all" else 1
    past, count = _past(schedule, zone, now, cap)
    chosen = _chosen(schedule, past, now)
    if live and schedule.overlap == "skip":
        chosen = ()
    elif schedule.overlap == "skip":
        chosen = chosen[-1:]
    elif schedule.overlap == "queue" and len(chosen) > 1:
        return Firing(chosen[:1], count - len(chosen), chosen[1], now, waiting=True)
    following = first_after(schedule.timing, zone, past[-1], past[-1])
    run = run_at(schedule.name, following, schedule.jitter)
    return Firing(chosen, count - len(chosen), following, run)


def after_pause(schedule: Schedule, now: datetime) -> datetime:
    """Find the moment a schedule goes on with: what passed while it was off is not made up."""
    if schedule.moment > now:
        return schedule.moment
    return first_after(schedule.timing, zone_of(schedule.timezone), now, schedule.moment)


def _chosen(schedule: Schedule, past: list[datetime], now: datetime) -> tuple[datetime, ...]:
    if schedule.catch_up == "skip" and not schedule.waiting:
        late = (now - run_at(schedule.name, past[-1], schedule.jitter)).total_seconds()
        return () if late > MISSED_SECONDS else (past[-1],)
    return tuple(past)


def _past(schedule: Schedule, zone: tzinfo, now: datetime, cap: int) -> tuple[list[datetime], int]:
    """Find the latest moments that are due, at most `cap`, and how many are due at least.

    After a long time they are many: only as many are reckoned as are wanted, from the end.
    """
    first, timing = schedule.moment, schedule.timing
    span = timedelta(seconds=timing.least_seconds * (cap + 1) + schedule.jitter)
    while True:
        start = max(first, now - span)
        if start > first:
            start = first_after(timing, zone, start, first)
        due: deque[datetime] = deque([first] if start == first else [], maxlen=cap)
        count = len(due)
        for moment in chain([] if due else [start], moments_after(timing, zone, start)):
            if run_at(schedule.name, moment, schedule.jitter) > now:
                break
            due.append(moment)
            count += 1
        if start == first or count >= cap:
            return list(due), count
        span *= 4
