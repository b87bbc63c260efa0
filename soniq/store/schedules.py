"""Schedules as they are kept: made, changed, paused, removed, run at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from ..errors import DuplicateSchedule, InvalidTransition, ScheduleNotFound, TransientError
from ..job.codec import decode_row
from ..job.ids import new_id
from ..job.record import NewJob
from ..job.schedule import Plan, Schedule, kept_options
from ..job.timing import Cron, Timing, zone_of
from ..policy.schedule import after_pause, first_after, moments_after, run_at
from ..steps import Atomic, Query, Steps
from . import bulk

# A change is made only to what was read. Whoever changes one schedule finds somebody else before
# them at most a few times.
ATTEMPTS = 10

NOW = "SELECT CAST(to_jsonb(statement_timestamp()) AS text)"

GET = """
    SELECT CAST(jsonb_build_array(statement_timestamp(), to_jsonb(s), CAST(s.args AS text)) AS text)
    FROM {soniq}.schedules s WHERE s.name = CAST(%(name)s AS text)"""

# What somebody wrote by SQL may be no moment of Python's; it must not spoil the list.
_MOMENT = "least(greatest(s.{0}, timestamptz '0001-01-02 0:00Z'), timestamptz '9999-12-30 0:00Z')"
LIST = f"""
    SELECT CAST(to_jsonb(s) || jsonb_build_object('moment', {_MOMENT.format("moment")},
        'next_run', {_MOMENT.format("next_run")}) AS text) FROM {{soniq}}.schedules s
    WHERE (CAST(%(task)s AS text) IS NULL OR s.task = CAST(%(task)s AS text))
      AND (CAST(%(after)s AS text) IS NULL OR s.name > CAST(%(after)s AS text))
    ORDER BY s.name LIMIT CAST(CAST(%(limit)s AS text) AS integer)"""

_OTHERS = """task, queue, priority, max_attempts, timeout_seconds, tags, options, cron,
    every_seconds, timezone, jitter_seconds, catch_up, catch_up_max, overlap, owner, paused,
    moment, next_run"""

_COLUMNS = f"args, {_OTHERS}"

_GIVEN = f"""
    SELECT name, revision, CAST(written AS jsonb) AS args, {_OTHERS}
    FROM jsonb_to_recordset(CAST(CAST(%(rows)s AS text) AS jsonb)) AS r(
        name text, revision bigint, task text, written text, queue text, priority smallint,
        max_attempts integer, timeout_seconds double precision, tags text[], options jsonb,
        cron text, every_seconds double precision, timezone text, jitter_seconds double precision,
        catch_up text, catch_up_max integer, overlap text, owner text, paused boolean,
        moment timestamptz, next_run timestamptz)"""

# Schedulers sleep until the next moment they know of.
_TOLD = """
    CASE WHEN CAST(%(notify)s AS text) <> 'off' THEN CAST(pg_notify({channel}, 's:') AS text) END"""

INSERT = f"""
    WITH given AS ({_GIVEN}),
    made AS (
        INSERT INTO {{soniq}}.schedules (name, {_COLUMNS}) SELECT name, {_COLUMNS} FROM given
        ON CONFLICT (name) DO NOTHING RETURNING name)
    SELECT name, {_TOLD} FROM made"""

CHANGE = f"""
    WITH given AS ({_GIVEN}),
    made AS (
        UPDATE {{soniq}}.schedules s SET
            task = g.task, args = g.args, queue = g.queue, priority = g.priority,
            max_attempts = g.max_attempts, timeout_seconds = g.timeout_seconds, tags = g.tags,
            options = g.options,
            cron = g.cron, every_seconds = g.every_seconds, timezone = g.timezone,
            jitter_seconds = g.jitter_seconds, catch_up = g.catch_up,
            catch_up_max = g.catch_up_max, overlap = g.overlap, paused = g.paused,
            moment = g.moment, next_run = g.next_run, retired_at = NULL,
            orphaned = false,
            waiting = s.waiting AND s.moment = g.moment,
            changed_at = statement_timestamp(), revision = s.revision + 1
        FROM given g WHERE s.name = g.name AND s.revision = g.revision RETURNING s.name)
    SELECT name, {_TOLD} FROM made"""

PAUSE = """
    UPDATE {soniq}.schedules s SET
        paused = true, changed_at = statement_timestamp(), revision = s.revision + 1
    WHERE s.name = CAST(%(name)s AS text) AND NOT s.paused RETURNING s.name"""

RESUME = f"""
    WITH made AS (
        UPDATE {{soniq}}.schedules s SET
            paused = false, moment = CAST(%(moment)s AS timestamptz),
            next_run = CAST(%(next_run)s AS timestamptz),
            waiting = s.waiting AND s.moment = CAST(%(moment)s AS timestamptz),
            changed_at = statement_timestamp(), revision = s.revision + 1
        WHERE s.name = CAST(%(name)s AS text)
          AND s.revision = CAST(CAST(%(revision)s AS text) AS bigint)
        RETURNING s.name)
    SELECT name, {_TOLD} FROM made"""

REMOVE = """
    DELETE FROM {soniq}.schedules s
    WHERE s.name = CAST(%(name)s AS text) AND (s.owner = 'user' OR s.retired_at IS NOT NULL)
    RETURNING s.name"""

LOCK = f"{GET} FOR UPDATE"

RAN = """
    UPDATE {soniq}.schedules s SET
        last_run = statement_timestamp(), last_job_id = CAST(%(id)s AS uuid),
        runs = s.runs + CAST(CAST(%(made)s AS text) AS integer),
        holders = CASE WHEN s.overlap = 'allow' THEN s.holders ELSE array_append(ARRAY(
            SELECT j.id FROM {soniq}.jobs j
            WHERE j.id = ANY (s.holders) AND j.id <> CAST(%(id)s AS uuid)),
            CAST(%(id)s AS uuid)) END,
        revision = s.revision + 1
    WHERE s.name = CAST(%(name)s AS text)"""


# -- looking


def get(name: str) -> Steps[Schedule]:
    """Find one.

    Raises:
        ScheduleNotFound: There is none.
    """
    _, schedule = yield from _read(name)
    return schedule


def list_schedules(*, task: str | None, limit: int, after: str | None) -> Steps[list[Schedule]]:
    """List one page by name; the next page is `after` the last name of this one."""
    params = {"task": task, "limit": str(limit), "after": after}
    return (yield from Query(LIST, params, lambda row: Schedule.of(decode_row(row[0]))))


def preview(name: str, count: int) -> Steps[list[datetime]]:
    """Give a schedule's next moments, without jitter.

    Raises:
        ScheduleNotFound: There is none.
    """
    now, schedule = yield from _read(name)
    first = after_pause(schedule, now)
    rest = moments_after(schedule.timing, zone_of(schedule.timezone), first)
    return [first, *islice(rest, count - 1)]


def now() -> Steps[datetime]:
    """Ask the database what time it is."""
    (moment,) = yield from Query(NOW, {}, lambda row: datetime.fromisoformat(decode_row(row[0])))
    return moment


# -- changing


def add(plan: Plan, notify: str) -> Steps[Schedule]:
    """Keep a new schedule of a user.

    Raises:
        DuplicateSchedule: There is one of that name.
    """
    moment = yield from now()
    if not (yield from insert([row_of(plan, moment, "user")], notify)):
        raise DuplicateSchedule(
            f"There is a schedule named {plan.name!r} already. Give this one another name, or "
            "change that one: update(name, ...)."
        )
    return (yield from get(plan.name))


def change(name: str, edit: Callable[[Schedule], Plan], notify: str) -> Steps[Schedule]:
    """Change a schedule of a user.

    Args:
        name: Its name.
        edit: Makes the new plan of what there is.
        notify: `auto`, `always` or `off`.

    Raises:
        ScheduleNotFound: There is none.
        InvalidTransition: Code declared it.
    """
    for _ in range(ATTEMPTS):
        moment, schedule = yield from _read(name)
        if schedule.owner == "code":
            raise InvalidTransition(
                f"Schedule {name!r} is declared by code, and the next deploy would undo this. "
                "Change it there, or pause it."
            )
        row = row_of(edit(schedule), moment, "user", schedule)
        if (yield from write([row], notify)):
            return (yield from get(name))
    raise _too_busy(name)


def pause(name: str) -> Steps[bool]:
    """Leave a schedule alone from now on; answer whether it was not paused before.

    Raises:
        ScheduleNotFound: There is none.
    """
    if (yield from Query(PAUSE, {"name": name})):
        return True
    yield from _read(name)
    return False


def resume(name: str, notify: str) -> Steps[bool]:
    """Go on with a paused schedule, from its next moment; answer whether it was paused.

    Raises:
        ScheduleNotFound: There is none.
    """
    for _ in range(ATTEMPTS):
        moment, schedule = yield from _read(name)
        if not schedule.paused:
            return False
        following = after_pause(schedule, moment)
        params = {
            "name": name,
            "revision": str(schedule.revision),
            "moment": following.isoformat(),
            "next_run": run_at(name, following, schedule.jitter).isoformat(),
            "notify": notify,
        }
        if (yield from Query(RESUME, params)):
            return True
    raise _too_busy(name)


def remove(name: str) -> Steps[None]:
    """Forget a schedule; its jobs stay.

    Raises:
        ScheduleNotFound: There is none.
        InvalidTransition: Code declares it.
    """
    if not (yield from Query(REMOVE, {"name": name})):
        yield from _read(name)
        raise InvalidTransition(
            f"Schedule {name!r} is declared by code, and the next deploy would bring it back. "
            "Take it out of the code, or pause it."
        )


def run_now(name: str, notify: str) -> Steps[str]:
    """Enqueue a schedule's job at once, beside its moments; answer the job's id.

    Raises:
        ScheduleNotFound: There is none.
    """
    return (yield from Atomic(_run_now(name, notify)))


def _run_now(name: str, notify: str) -> Steps[str]:
    found = yield from Query(LOCK, {"name": name}, _dated)
    if not found:
        raise _no_schedule(name)
    ((_, schedule, args),) = found
    job = NewJob(new_id(), args, schedule.placement)
    made = yield from bulk.enqueue_many([job], (), notify)
    counted = str(made.outcomes.count("enqueued"))  # else it counts for whoever made it
    yield from Query(RAN, {"name": name, "id": made[0], "made": counted})
    return made[0]


# -- rows


def insert(rows: Sequence[dict[str, Any]], notify: str) -> Steps[list[str]]:
    """Keep new schedules; answer the names of those that were not there."""
    return (yield from Query(INSERT, {"rows": json.dumps(rows), "notify": notify}, _name))


def write(rows: Sequence[dict[str, Any]], notify: str) -> Steps[list[str]]:
    """Change schedules that are as they were read; answer the names of those that were."""
    return (yield from Query(CHANGE, {"rows": json.dumps(rows), "notify": notify}, _name))


def row_of(plan: Plan, now: datetime, owner: str, old: Schedule | None = None) -> dict[str, Any]:
    """Write a plan as a row; one that goes on as before keeps its next moment."""
    rules, placement = plan.rules, plan.job.placement
    timing, zone = rules.timing, zone_of(rules.timezone)
    cron, every = timing_columns(timing)
    kept = None if old is None else (old.cron, old.every, old.timezone)
    if old is not None and kept == (cron, every, rules.timezone):
        moment = old.moment
    else:
        moment = first_after(timing, zone, now, now.replace(microsecond=0))
    next_run = run_at(plan.name, moment, rules.jitter)
    if old is not None and old.waiting and moment == old.moment:
        next_run = max(next_run, old.next_run)
    return {
        "name": plan.name,
        "revision": None if old is None else old.revision,
        "task": placement.task,
        "written": plan.job.args,
        "queue": placement.queue,
        "priority": placement.priority,
        "max_attempts": placement.max_attempts,
        "timeout_seconds": placement.timeout,
        "tags": None if placement.tags is None else list(placement.tags),
        "options": kept_options(placement),
        "cron": cron,
        "every_seconds": every,
        "timezone": rules.timezone,
        "jitter_seconds": rules.jitter,
        "catch_up": rules.catch_up,
        "catch_up_max": rules.catch_up_max,
        "overlap": rules.overlap,
        "owner": owner,
        "paused": plan.paused if old is None else old.paused,
        "moment": moment.isoformat(),
        "next_run": next_run.isoformat(),
    }


def timing_columns(timing: Timing) -> tuple[str | None, float | None]:
    """Write a timing as the table does: a cron expression, or seconds."""
    return (timing.expression, None) if isinstance(timing, Cron) else (None, timing.seconds)


def _read(name: str) -> Steps[tuple[datetime, Schedule]]:
    found = yield from Query(GET, {"name": name}, _dated)
    if not found:
        raise _no_schedule(name)
    moment, schedule, _ = found[0]
    return moment, schedule


def _dated(row: Sequence[Any]) -> tuple[datetime, Schedule, str]:
    moment, schedule, args = decode_row(row[0])
    return datetime.fromisoformat(moment), Schedule.of(schedule), args


def _name(row: Sequence[Any]) -> str:
    return str(row[0])


def _no_schedule(name: str) -> ScheduleNotFound:
    return ScheduleNotFound(
        f"There is no schedule named {name!r}. `soniq schedules list` names them all."
    )


def _too_busy(name: str) -> TransientError:
    return TransientError(f"Schedule {name!r} was changed by others all the time. Try again.")
