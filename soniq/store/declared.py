"""Schedules that code declares: what a deploy adds, changes and retires."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..job.codec import decode_row
from ..job.schedule import Plan, Schedule, kept_options
from ..steps import Query, Steps
from .schedules import insert, now, row_of, timing_columns, write

FIND = """
    SELECT CAST(to_jsonb(s) AS text) FROM {soniq}.schedules s
    WHERE s.name = ANY (CAST(%(names)s AS text[]))"""

# What is declared here and was retired only for want of a worker comes back, as it was: a release
# that started later may have changed it. What is not declared here is retired: for good if this
# code has the task; else until its code is back, for another application may use this database.
# What that declares is left alone while one of its workers lives, or a scheduler without workers
# vouches for it. After a crash of the server nobody counts as dead before all had time to report.
LOOK = """
    WITH given AS (
        SELECT statement_timestamp() + make_interval(
                secs => CAST(CAST(%(vouched)s AS text) AS double precision)) AS vouched_until,
            statement_timestamp() - make_interval(
                secs => CAST(CAST(%(timeout)s AS text) AS double precision)) AS alive_since),
    mine AS MATERIALIZED (
        SELECT s.name, s.retired_at IS NOT NULL AS back FROM {soniq}.schedules s
        WHERE s.name = ANY (CAST(%(declared)s AS text[])) AND s.owner = 'code'
          AND CASE WHEN s.retired_at IS NULL THEN CAST(%(vouched)s AS text) IS NOT NULL
              ELSE s.orphaned END
        FOR UPDATE SKIP LOCKED),
    kept AS (
        UPDATE {soniq}.schedules s SET
            retired_at = NULL, orphaned = false,
            declared_until = coalesce((SELECT vouched_until FROM given), s.declared_until),
            changed_at = CASE WHEN m.back THEN statement_timestamp() ELSE s.changed_at END,
            revision = s.revision + CAST(m.back AS integer)
        FROM mine m WHERE s.name = m.name RETURNING s.name, m.back),
    gone AS (
        UPDATE {soniq}.schedules s SET
            retired_at = coalesce(s.retired_at, statement_timestamp()),
            orphaned = NOT (s.task = ANY (CAST(%(tasks)s AS text[]))),
            changed_at = statement_timestamp(), revision = s.revision + 1
        WHERE s.owner = 'code' AND NOT (s.name = ANY (CAST(%(declared)s AS text[])))
          AND CASE WHEN s.task = ANY (CAST(%(tasks)s AS text[]))
              THEN s.retired_at IS NULL OR s.orphaned
              ELSE s.retired_at IS NULL
                AND (s.declared_until > statement_timestamp()) IS NOT TRUE
                AND NOT EXISTS (SELECT FROM {soniq}.workers w
                    WHERE s.task = ANY (w.tasks) AND w.seen_at > (SELECT alive_since FROM given))
                AND NOT EXISTS (SELECT FROM {soniq}.watch
                    WHERE since > (SELECT alive_since FROM given))
              END
        RETURNING s.name, s.retired_at = statement_timestamp() AS new)
    SELECT name, true AS back FROM kept WHERE back
    UNION ALL SELECT name, false FROM gone WHERE new"""

# Any number of workers may declare at once; who was quicker is read again.
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a deploy did to the schedules that code declares.

    Attributes:
        added: Names that are new.
        changed: Names of those that were changed, or brought back.
        retired: Names of those that are gone from the code.
        refused: Names that a user's schedule has already; the code's does not run.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def declare(
    plans: Sequence[Plan],
    tasks: Sequence[str],
    timeout_seconds: float,
    notify: str,
    *,
    vouched_seconds: float | None = None,
) -> Steps[Deployed]:
    """Bring the schedules of code up to what the code says.

    Args:
        plans: What it declares.
        tasks: The tasks it knows: whatever else is declared for one of them is retired.
        timeout_seconds: How long a worker may be silent and still live.
        notify: `auto`, `always` or `off`.
        vouched_seconds: See `look`.
    """
    added: list[str] = []
    changed: list[str] = []
    refused: tuple[str, ...] = ()
    for _ in range(ATTEMPTS if plans else 0):
        new, differing, refused = yield from _differences(plans)
        added += (yield from insert(new, notify)) if new else ()
        changed += (yield from write(differing, notify)) if differing else ()
        if not (new or differing):
            break
    names = [plan.name for plan in plans]
    seen = yield from look(names, tasks, timeout_seconds, vouched_seconds=vouched_seconds)
    return Deployed(tuple(added), (*changed, *seen.changed), seen.retired, refused)


def look(
    declared: Iterable[str],
    tasks: Iterable[str],
    timeout_seconds: float,
    *,
    vouched_seconds: float | None = None,
) -> Steps[Deployed]:
    """Retire what is no longer declared, and bring back what was retired for want of a worker.

    Args:
        declared: Names that are.
        tasks: Whatever else is declared for one of these tasks is retired for good; for others only
            while no live worker has the task and nobody vouches for it.
        timeout_seconds: How long a worker may be silent and still live.
        vouched_seconds: How long nobody is to retire what is declared here, whether a worker lives
            or not; None leaves it to the workers.
    """
    params = {
        "declared": list(declared),
        "tasks": list(tasks),
        "timeout": str(timeout_seconds),
        "vouched": None if vouched_seconds is None else str(vouched_seconds),
    }
    found = yield from Query(LOOK, params, lambda row: (str(row[0]), bool(row[1])))
    return Deployed(
        changed=tuple(name for name, back in found if back),
        retired=tuple(name for name, back in found if not back),
    )


def _differences(
    plans: Sequence[Plan],
) -> Steps[tuple[list[dict[str, Any]], list[dict[str, Any]], tuple[str, ...]]]:
    """Find the rows that are missing, those that differ, and the names a user has."""
    moment = yield from now()
    kept = yield from Query(
        FIND,
        {"names": [plan.name for plan in plans]},
        lambda row: Schedule.of(decode_row(row[0])),
    )
    known = {schedule.name: schedule for schedule in kept}
    new = [row_of(plan, moment, "code") for plan in plans if plan.name not in known]
    differing, refused = [], []
    for plan in plans:
        old = known.get(plan.name)
        if old is None:
            continue
        if old.owner == "user":
            refused.append(plan.name)
        elif old.retired_at is not None or not _is(old, plan):
            differing.append(row_of(plan, moment, "code", old))
    return new, differing, tuple(refused)


def _is(old: Schedule, plan: Plan) -> bool:
    """Tell whether a schedule is as it is declared."""
    rules, job = plan.rules, plan.job.placement
    when = (*timing_columns(rules.timing), rules.timezone, rules.jitter)
    how = (rules.catch_up, rules.catch_up_max, rules.overlap)
    what = (job.task, json.loads(plan.job.args), job.queue, job.priority, job.max_attempts)
    more = (job.timeout, job.tags, kept_options(job))
    return (
        when == (old.cron, old.every, old.timezone, old.jitter)
        and how == (old.catch_up, old.catch_up_max, old.overlap)
        and what == (old.task, old.args, old.queue, old.priority, old.max_attempts)
        and more == (old.timeout, old.tags, kept_options(old.placement))
    )
