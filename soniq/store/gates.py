"""Limits: what tasks declare of them, and the claim of jobs that wait behind gates.

How a claim counts and takes is told in the functions of `0005_pre_gates.sql`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from ..job.limits import Limits
from ..job.record import Claimed
from ..steps import Batch, Query, Steps

# The gates of keys whose jobs run in order; a retry goes before what was enqueued after it.
IN_ORDER: LiteralString = "j.gate >= 'o' AND j.gate < 'p'"
# Those that hold the others while they wait for another try; NULL is no gate.
HELD: LiteralString = f"j.attempt + j.snoozes > 0 AND {IN_ORDER}"

_DECLARED: LiteralString = """
    concurrency, key_concurrency, rate_seconds, rate_burst, rate_by_key, breaker_failures,
    breaker_window, breaker_pause, breaker_by_key"""

# Sorted: two workers that start at once take the rows in one order.
DECLARE = f"""
    INSERT INTO {{soniq}}.gates AS g (task, declared_at, {_DECLARED})
    SELECT task, statement_timestamp(), {_DECLARED}
    FROM jsonb_to_recordset(CAST(CAST(%(limits)s AS text) AS jsonb)) AS r(
        task text, concurrency integer, key_concurrency integer, rate_seconds double precision,
        rate_burst integer, rate_by_key boolean, breaker_failures integer,
        breaker_window double precision, breaker_pause double precision, breaker_by_key boolean)
    ORDER BY task
    ON CONFLICT (task, key) DO UPDATE SET
        (declared_at, {_DECLARED})
        = (excluded.declared_at, excluded.{", excluded.".join(_DECLARED.replace(",", "").split())})
    WHERE (g.{", g.".join(_DECLARED.replace(",", "").split())})
        IS DISTINCT FROM (excluded.{", excluded.".join(_DECLARED.replace(",", "").split())})"""

# In one order, before anything is written: releases that start at once may declare other things.
LOCK = """
    SELECT FROM {soniq}.gates
    WHERE key = '' AND task = ANY (CAST(%(tasks)s AS text[])) ORDER BY task FOR NO KEY UPDATE"""

# A task whose code says nothing of limits any more has none.
FORGET = """
    UPDATE {soniq}.gates SET
        declared_at = NULL, concurrency = NULL, key_concurrency = NULL, rate_seconds = NULL,
        rate_burst = NULL, rate_by_key = false, breaker_failures = NULL, breaker_window = NULL,
        breaker_pause = NULL, breaker_by_key = false, closed_until = NULL
    WHERE key = '' AND declared_at IS NOT NULL AND task = ANY (CAST(%(tasks)s AS text[]))"""

CLAIM = """
    SELECT c.id, c.task, c.queue, c.args, c.attempt, c.max_attempts, c.snoozes, c.priority,
        c.scheduled_at, c.created_at, c.timeout_seconds, c.tags, c.trace, c.cancel_requested,
        c.found_seconds, c.gate, c.mark, c.wait_seconds
    FROM {soniq}.claim_gated(
        CAST(%(worker)s AS uuid), CAST(%(queues)s AS text[]), CAST(%(tasks)s AS text[]),
        CAST(%(number)s AS integer), CAST(%(slots)s AS integer), CAST(%(bytes)s AS bigint),
        CAST(%(turn)s AS text), CAST(CAST(%(marks)s AS text) AS jsonb),
        CAST(CAST(%(weights)s AS text) AS jsonb)) AS c"""

# Of tasks that the worker has, whether or not they declare limits now, and of limited queues.
WAITING = """
    SELECT l.queue, l.task FROM {soniq}.gated_lanes(
        CAST(%(queues)s AS text[]), CAST(%(tasks)s AS text[]), '') AS l"""

FAILED = """
    SELECT f.task, f.key, f.seconds, f.again
    FROM {soniq}.note_failures(CAST(%(worker)s AS uuid), CAST(%(ids)s AS uuid[])) AS f"""

# Fenced as the endings are; the place in the queue stays.
PUT_BEHIND = """
    WITH t AS (
        SELECT * FROM unnest(
            CAST(%(ids)s AS uuid[]), CAST(%(attempts)s AS integer[]), CAST(%(gates)s AS text[]))
            AS t(id, attempt, gate))
    UPDATE {soniq}.jobs j SET
        state = 'queued', worker_id = NULL, started_at = NULL, attempt = j.attempt - 1,
        gate = t.gate
    FROM t
    WHERE j.id = t.id AND j.attempt = t.attempt AND j.worker_id = CAST(%(worker)s AS uuid)
    RETURNING CAST(j.id AS text)"""

# What is stopped by failures: whole tasks (key ''), and keys without the mark of their gate.
STOPPED = """
    SELECT CAST(json_build_object(
        'task', g.task, 'key', CASE WHEN g.key <> '' THEN substr(g.key, 2) END,
        'until', g.closed_until,
        'seconds', greatest(0, extract(epoch FROM g.closed_until - statement_timestamp())),
        'tried_with', g.probe) AS text)
    FROM {soniq}.gates g
    JOIN {soniq}.gates d ON d.task = g.task AND d.key = ''
    WHERE g.closed_until IS NOT NULL AND d.breaker_failures IS NOT NULL
      AND (g.key <> '') = d.breaker_by_key
    ORDER BY g.task, g.key"""

# Rows of keys and queues of which nothing is remembered that would still count, or of what failed
# and nobody has asked for since, for a day.
# The last row, without a task, tells that something is stopped, or was a moment ago.
SETTLE = """
    SELECT s.task, s.key FROM {soniq}.settle_gates() AS s
    UNION ALL
    SELECT NULL, NULL
    WHERE EXISTS (SELECT FROM {soniq}.gates g WHERE g.closed_until IS NOT NULL)"""

PRUNE = """
    DELETE FROM {soniq}.gates g USING (
        SELECT p.task, p.key FROM {soniq}.gates p
        WHERE p.key <> ''
          AND coalesce(p.closed_until < statement_timestamp() - interval '1 day', true)
          AND coalesce(p.spent_until < statement_timestamp() - interval '1 minute', true)
          AND coalesce(
              p.failed_at[cardinality(p.failed_at)] < statement_timestamp() - interval '1 day',
              true)
        LIMIT 1000
        FOR UPDATE SKIP LOCKED) AS p
    WHERE g.task = p.task AND g.key = p.key
    RETURNING g.key"""


@dataclass(frozen=True, slots=True)
class Opened:
    """What failures have stopped: its circuit breaker is open.

    Attributes:
        task: Which.
        gate: That of a key; None is the whole task.
        seconds: For how long, until it is tried.
        again: Whether it was stopped before: the job that tried it failed.
    """

    task: str
    gate: str | None
    seconds: float
    again: bool


@dataclass(frozen=True, slots=True)
class Mended:
    """What failures had stopped, and where a job went well now.

    Attributes:
        task: Which.
        gate: That of a key; None is the whole task.
    """

    task: str
    gate: str | None


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that was taken, and the gate it was behind; None is of a queue with a limit."""

    job: Claimed
    gate: str | None


@dataclass(frozen=True, slots=True)
class Looked:
    """What a claim found at the gates of one task in one queue.

    Attributes:
        lane: The queue and the task.
        mark: Where to go on among its keys; the next claim is told it as it is.
        wait_seconds: When to come again; 0 is at once, None when something happens.
    """

    lane: str
    mark: str
    wait_seconds: float | None


def declare(limits: Mapping[str, Limits | None]) -> Steps[None]:
    """Keep what tasks declare now."""
    limited = [_row(task, said) for task, said in sorted(limits.items()) if said is not None]
    free = sorted(task for task, said in limits.items() if said is None)
    steps: list[Query[None]] = [
        Query(LOCK, {"tasks": sorted(limits)}, lambda row: None),
        Query(FORGET, {"tasks": free}),
    ]
    if limited:
        steps.append(Query(DECLARE, {"limits": json.dumps(limited)}))
    yield from Batch(steps)


def claim(
    worker_id: str,
    queues: Sequence[str],
    tasks: Sequence[str],
    number: int,
    *,
    slots: int,
    most_bytes: int,
    turn: str = "",
    marks: Mapping[str, str] | None = None,
    weights: Mapping[str, Mapping[str, float]] | None = None,
) -> Query[Taken | Looked | Mended]:
    """Take up to so many jobs that wait behind gates.

    Args:
        worker_id: Who takes them.
        queues: Those it serves; all if empty.
        tasks: The names of the tasks it has.
        number: How many.
        slots: Of more jobs than these, only as many as their arguments stay within `most_bytes`,
            and of what has a rate no more than start in a moment.
        most_bytes: The bytes of all arguments together.
        turn: The lane that had the last turn.
        marks: By lane, where to go on among its keys.
        weights: By task and gate, how many turns it gets where others get one.
    """
    params = {
        "worker": worker_id,
        "queues": list(queues),
        "tasks": list(tasks),
        "number": number,
        "slots": slots,
        "bytes": most_bytes,
        "turn": turn,
        "marks": json.dumps(marks or {}),
        "weights": json.dumps(weights or {}),
    }
    return Query(CLAIM, params, _found, binary=True)


def waiting(queues: Sequence[str], tasks: Sequence[str]) -> Query[tuple[str, str | None]]:
    """List queues and tasks with jobs behind gates, and queues with a limit; those have no task."""
    return Query(WAITING, {"queues": list(queues), "tasks": list(tasks)}, lambda r: (r[0], r[1]))


def failed(worker_id: str, ids: Sequence[str]) -> Query[Opened]:
    """Note that attempts of jobs failed, before their endings are written; answers what that stops.

    In one transaction with the endings: it locks the rows of their tasks.
    """
    params = {"worker": worker_id, "ids": list(ids)}
    return Query(FAILED, params, lambda row: Opened(row[0], row[1] or None, row[2], row[3]))


def put_behind(worker_id: str, jobs: Iterable[tuple[Claimed, str]]) -> Query[str]:
    """Hand jobs back that should have been behind gates, each with its gate; answers their ids."""
    params: dict[str, object] = {"worker": worker_id, "ids": [], "attempts": [], "gates": []}
    rows = [(job.id, job.attempt, gate) for job, gate in jobs]
    params["ids"], params["attempts"], params["gates"] = map(list, zip(*rows, strict=True))
    return Query(PUT_BEHIND, params, lambda row: str(row[0]))


def stopped() -> Query[dict[str, Any]]:
    """List what failures have stopped: `task`, `key`, `until`, `seconds`, and `tried_with`."""
    return Query(STOPPED, {}, lambda row: dict(json.loads(row[0])))


def settle() -> Query[Mended | None]:
    """Tell what failures had stopped and runs again; None, at the end, is that more is stopped."""
    return Query(SETTLE, {}, lambda row: None if row[0] is None else Mended(row[0], row[1] or None))


def prune() -> Query[str]:
    """Forget up to a thousand keys of limits that nothing is to be remembered of; answers them."""
    return Query(PRUNE, {}, lambda row: str(row[0]))


def _found(row: Sequence[Any]) -> Taken | Looked | Mended:
    if row[0] is not None:
        return Taken(Claimed._make(row[:15]), row[15])
    if row[15] is not None:
        return Mended(row[1], row[15] or None)
    return Looked(f"{row[2]} {row[1] or ''}", row[16], row[17])


def _row(task: str, limits: Limits) -> dict[str, object]:
    pace, breaker = limits.pace, limits.breaker
    return {
        "task": task,
        "concurrency": limits.concurrency,
        "key_concurrency": limits.key_concurrency,
        "rate_seconds": None if pace is None else pace.seconds,
        "rate_burst": None if pace is None else pace.burst,
        "rate_by_key": limits.rate_by_key,
        "breaker_failures": None if breaker is None else breaker.failures,
        "breaker_window": None if breaker is None else breaker.window,
        "breaker_pause": None if breaker is None else breaker.pause,
        "breaker_by_key": breaker is not None and breaker.by_key,
    }
