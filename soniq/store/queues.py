"""Queues: how they stand, what was said about them, and sending their jobs away."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString

from ..job.queue import Limits, QueueStats
from ..steps import Atomic, Query, Steps
from .endings import KEPT
from .gates import HELD

PAUSED: LiteralString = """
    (q.paused AND (q.paused_until IS NULL OR q.paused_until > statement_timestamp()))"""

_SAID: LiteralString = """
        'concurrency', q.concurrency, 'rate_count', q.rate_count, 'rate_seconds', q.rate_seconds,
        'rate_burst', q.rate_burst, 'max_depth', q.max_depth, 'on_full', q.on_full,
        'aging_seconds', q.aging_seconds"""

_LIVE: LiteralString = """
    live AS (
        SELECT queue,
            count(*) FILTER (WHERE state = 'scheduled') AS scheduled,
            count(*) FILTER (WHERE state = 'queued') AS queued,
            count(*) FILTER (WHERE state = 'processing') AS processing,
            min(scheduled_at) FILTER (WHERE state = 'queued') AS oldest
        FROM {soniq}.jobs"""

_DEAD: LiteralString = """ GROUP BY queue),
    dead AS (SELECT queue, count(*) AS letters FROM {soniq}.dead_letters"""

_WORK: LiteralString = """ GROUP BY queue),
    work AS (
        SELECT w.queues, w.rates FROM {soniq}.workers w
        WHERE w.seen_at > statement_timestamp()
            - make_interval(secs => CAST(%(patience)s AS double precision))),
    known AS ("""

_TOLD: LiteralString = f""")
    SELECT CAST(json_build_object(
        'queue', k.queue, 'scheduled', coalesce(l.scheduled, 0), 'queued', coalesce(l.queued, 0),
        'processing', coalesce(l.processing, 0), 'dead_letters', coalesce(d.letters, 0),
        'oldest_seconds', extract(epoch FROM statement_timestamp() - l.oldest),
        'paused', coalesce({PAUSED}, false), 'paused_until', q.paused_until,
        'rate', (SELECT coalesce(sum(CAST(w.rates ->> k.queue AS double precision)), 0)
                 FROM work w),
        'workers', (SELECT count(*) FROM work w
                    WHERE w.queues IS NULL OR k.queue = ANY (w.queues)),{_SAID}) AS text)
    FROM known k
    LEFT JOIN live l ON l.queue = k.queue
    LEFT JOIN dead d ON d.queue = k.queue
    LEFT JOIN {{soniq}}.queues q ON q.name = k.queue
    ORDER BY k.queue"""

_OF: LiteralString = " WHERE queue = CAST(%(queue)s AS text)"

STATS = f"""WITH {_LIVE}{_DEAD}{_WORK}
        SELECT queue FROM live UNION SELECT queue FROM dead
        UNION SELECT name FROM {{soniq}}.queues{_TOLD}"""
STATS_OF = (
    f"""WITH {_LIVE}{_OF}{_DEAD}{_OF}{_WORK} SELECT CAST(%(queue)s AS text) AS queue{_TOLD}"""
)

# Whoever does the upkeep looks when the first pause will end; it is told of a new one.
PAUSE = """
    WITH said AS (
        INSERT INTO {soniq}.queues (name, paused, paused_until)
        VALUES (CAST(%(queue)s AS text), true, coalesce(
            CAST(%(moment)s AS timestamptz),
            statement_timestamp() + make_interval(secs => CAST(%(delay)s AS double precision))))
        ON CONFLICT (name) DO UPDATE SET
            paused = true, paused_until = excluded.paused_until, changed_at = statement_timestamp()
        RETURNING paused_until)
    SELECT CAST({soniq}.wake('*', CAST(%(mode)s AS text)) AS text)
    FROM said WHERE paused_until IS NOT NULL"""

RESUME = f"""
    WITH before AS (
        SELECT q.name, {PAUSED} AS paused FROM {{soniq}}.queues q
        WHERE q.name = CAST(%(queue)s AS text) AND q.paused FOR UPDATE),
    said AS (
        UPDATE {{soniq}}.queues
        SET paused = false, paused_until = NULL, changed_at = statement_timestamp()
        WHERE name = (SELECT name FROM before) RETURNING name)
    SELECT b.paused, CAST({{soniq}}.wake(said.name, CAST(%(notify)s AS text)) AS text)
    FROM said JOIN before b ON b.name = said.name"""

# A pause that is over by its moment is over without this; it is for those who sleep.
END_PAUSES = """
    WITH over AS (
        UPDATE {soniq}.queues
        SET paused = false, paused_until = NULL, changed_at = statement_timestamp()
        WHERE paused AND paused_until <= statement_timestamp() RETURNING name),
    told AS (
        SELECT CAST({soniq}.wake(name, CAST(%(notify)s AS text)) AS text) AS told FROM over)
    SELECT (SELECT count(*) FROM over), (SELECT count(told) FROM told),
        (SELECT extract(epoch FROM min(paused_until) - statement_timestamp())
         FROM {soniq}.queues WHERE paused AND paused_until > statement_timestamp())"""

LIMITS = f"""
    SELECT CAST(json_build_object({_SAID}) AS text) FROM {{soniq}}.queues q
    WHERE q.name = CAST(%(queue)s AS text) FOR UPDATE"""

LIMIT = """
    WITH said AS (
        INSERT INTO {soniq}.queues (name, concurrency, rate_count, rate_seconds, rate_burst,
                                    max_depth, on_full, aging_seconds)
        VALUES (CAST(%(queue)s AS text), CAST(%(concurrency)s AS integer),
                CAST(%(rate_count)s AS integer), CAST(%(rate_seconds)s AS double precision),
                CAST(%(rate_burst)s AS integer), CAST(%(max_depth)s AS integer),
                CAST(%(on_full)s AS text), CAST(%(aging_seconds)s AS double precision))
        ON CONFLICT (name) DO UPDATE SET
            concurrency = excluded.concurrency, rate_count = excluded.rate_count,
            rate_seconds = excluded.rate_seconds, rate_burst = excluded.rate_burst,
            max_depth = excluded.max_depth, on_full = excluded.on_full,
            aging_seconds = excluded.aging_seconds, changed_at = statement_timestamp()
        RETURNING name)
    SELECT CAST({soniq}.wake(name, CAST(%(notify)s AS text)) AS text) FROM said"""

NOW = "SELECT CAST(statement_timestamp() AS text)"

# What waits in a queue and came up to a moment: what comes while jobs are sent away is not sent
# after them, or a quick producer would keep this going for ever.
_WAITING: LiteralString = """
    FROM {soniq}.jobs
    WHERE queue = CAST(%(queue)s AS text) AND state = ANY (CAST(%(states)s AS text[]))
      AND (CAST(%(task)s AS text) IS NULL OR task = CAST(%(task)s AS text))
      AND created_at <= CAST(CAST(%(upto)s AS text) AS timestamptz)"""

COUNT = f"SELECT count(*) {_WAITING}"

# So many in one transaction: large ones hold the others' locks and undo for long.
BATCH = 5000

_SOME: LiteralString = f"""
    id = ANY (ARRAY (
        SELECT id {_WAITING} LIMIT CAST(%(batch)s AS integer) FOR UPDATE SKIP LOCKED))"""

PURGE = f"""
    WITH gone AS (DELETE FROM {{soniq}}.jobs WHERE {_SOME} RETURNING {KEPT}, gate, snoozes),
    kept AS (
        INSERT INTO {{soniq}}.history ({KEPT}, state, reason)
        SELECT {KEPT}, 'cancelled', 'purged from its queue' FROM gone)
    SELECT count(*), (SELECT CAST({{soniq}}.wake('*', CAST(%(notify)s AS text)) AS text)
        FROM gone j WHERE {HELD} LIMIT 1)
    FROM gone"""

MOVE = f"""
    WITH moved AS (
        UPDATE {{soniq}}.jobs SET queue = CAST(%(target)s AS text) WHERE {_SOME} RETURNING state)
    SELECT count(*), (SELECT CAST({{soniq}}.wake(
            CAST(%(target)s AS text), CAST(%(notify)s AS text)) AS text)
        FROM moved WHERE state = 'queued' LIMIT 1)
    FROM moved"""

WAITING = ("scheduled", "queued")


def stats(patience_seconds: float) -> Query[QueueStats]:
    """Tell how each queue stands; workers silent for longer than `patience_seconds` are dead."""
    return Query(STATS, {"patience": patience_seconds}, _stats)


def stats_of(queue: str, patience_seconds: float) -> Steps[QueueStats]:
    """Tell how one queue stands; one that nobody knows is empty."""
    params = {"queue": queue, "patience": patience_seconds}
    (found,) = yield from Query(STATS_OF, params, _stats)
    return found


def pause(queue: str, until: datetime | float | None, notify: str) -> Query[None]:
    """Have workers leave a queue alone, for ever or until a moment or for so many seconds."""
    later = isinstance(until, int | float)
    params = {
        "queue": queue,
        "moment": None if later else until,
        "delay": until if later else None,
        "mode": "off" if notify == "off" else "always",
    }
    return Query(PAUSE, params)


def resume(queue: str, notify: str) -> Steps[bool]:
    """Have workers take from a queue again; answer whether it was paused."""
    params = {"queue": queue, "notify": notify}
    return (yield from Query(RESUME, params, lambda row: bool(row[0]))) == [True]


def end_pauses(notify: str) -> Query[tuple[int, float | None]]:
    """Wake workers for queues whose pause is over; answer how many, and seconds to the next."""
    return Query(
        END_PAUSES,
        {"notify": notify},
        lambda row: (int(row[0]), None if row[2] is None else float(row[2])),
    )


def limit(queue: str, changes: Mapping[str, Any], notify: str) -> Steps[None]:
    """Change some of what was said about a queue; what was not given stays.

    Raises:
        InvalidOption: What is left would mean nothing.
    """
    yield from Atomic(_limit(queue, changes, notify))


def _limit(queue: str, changes: Mapping[str, Any], notify: str) -> Steps[None]:
    found = yield from Query(LIMITS, {"queue": queue}, lambda row: Limits.of(json.loads(row[0])))
    limits = (found[0] if found else Limits()).changed(changes)
    yield from Query(LIMIT, {"queue": queue, "notify": notify, **limits.columns()})


def count(queue: str, states: Sequence[str], task: str | None) -> Steps[int]:
    """Count what would be sent away."""
    params = yield from _asked(queue, states, task)
    (number,) = yield from Query(COUNT, params, _number)
    return number


def purge(queue: str, states: Sequence[str], task: str | None, notify: str) -> Steps[int]:
    """Cancel what waits in a queue, some at a time; answer how many."""
    asked = yield from _asked(queue, states, task)
    return (yield from _in_batches(PURGE, {**asked, "notify": notify}))


def move(
    queue: str, target: str, states: Sequence[str], task: str | None, notify: str
) -> Steps[int]:
    """Give what waits in a queue to another, some at a time; answer how many."""
    asked = yield from _asked(queue, states, task)
    params = {**asked, "target": target, "notify": notify}
    return (yield from _in_batches(MOVE, params))


def _asked(queue: str, states: Sequence[str], task: str | None) -> Steps[dict[str, object]]:
    (now,) = yield from Query(NOW, decode=lambda row: str(row[0]))
    return {"queue": queue, "states": list(states), "task": task, "upto": now}


def _in_batches(sql: LiteralString, params: Mapping[str, object]) -> Steps[int]:
    total = 0
    while True:
        (number,) = yield from Query(sql, {**params, "batch": BATCH}, _number)
        total += number
        if number < BATCH:
            return total


def _stats(row: Sequence[Any]) -> QueueStats:
    return QueueStats.of(json.loads(row[0]))


def _number(row: Sequence[Any]) -> int:
    return int(row[0])
