"""How attempts end: the fenced writes of a worker about the jobs it holds.

Each statement takes a batch. Each row is written only while the job is still processing, with the
same attempt and the same worker; the answer is the ids that were written, and whoever is missing
lost its lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from ..steps import Query
from .gates import IN_ORDER

# Columns that live jobs, history and dead letters share.
KEPT: LiteralString = (
    "id, task, queue, args, priority, attempt, max_attempts, scheduled_at, created_at, "
    "started_at, worker_id, timeout_seconds, tags, trace, attempts"
)

# An id may come a second time, given to soniq.enqueue(): the later death takes the letter over.
# Refused, it would stop the whole batch, or the rescue of everybody's jobs.
_TAKEN_OVER: LiteralString = f"""
        ON CONFLICT (id) DO UPDATE SET ({KEPT}, reason, died_at, replayed_at, replayed_as)
        = (excluded.{", excluded.".join(KEPT.split(", "))}, excluded.reason, excluded.died_at,
           NULL, NULL)"""

# The state is named by its worker: a constraint of the table says that just processing jobs have
# one. Naming `state` here as well would let the planner take the index jobs_running, which its
# statistics, always wrong for a queue, promise to be empty; joined by primary key, it cannot err.
_MINE: LiteralString = """
        j.id = t.id AND j.attempt = t.attempt AND j.worker_id = CAST(%(worker)s AS uuid)"""

# What is to be run in order, and at once, goes before all that was enqueued later.
_MOMENT: LiteralString = f"""
            CASE WHEN t.delay <= 0 AND {IN_ORDER} THEN j.created_at
                 ELSE statement_timestamp() + make_interval(secs => t.delay) END"""

# Entries beyond the last 50 are forgotten, so that a job that fails for months stays small.
_NOTED: LiteralString = """
        (coalesce(j.attempts, '[]') || jsonb_build_object(
            'attempt', j.attempt, 'outcome', t.outcome, 'error', t.error,
            'traceback', t.traceback, 'worker_id', j.worker_id, 'started_at', j.started_at,
            'ended_at', statement_timestamp()))
        - CASE WHEN jsonb_array_length(coalesce(j.attempts, '[]')) >= 50 THEN 0 ELSE 1000 END"""

FINISH = f"""
    WITH t AS (
        SELECT * FROM unnest(
            CAST(%(ids)s AS uuid[]), CAST(%(attempts)s AS integer[]), CAST(%(results)s AS text[]))
            AS t(id, attempt, result)),
    gone AS (
        DELETE FROM {{soniq}}.jobs j USING t WHERE {_MINE}
        RETURNING j.*, t.result),
    kept AS (
        INSERT INTO {{soniq}}.history ({KEPT}, state, result)
        SELECT {KEPT}, 'done', CAST(result AS jsonb) FROM gone)
    SELECT CAST(id AS text) FROM gone"""

AGAIN = f"""
    WITH t AS (
        SELECT * FROM unnest(
            CAST(%(ids)s AS uuid[]), CAST(%(attempts)s AS integer[]),
            CAST(%(delays)s AS double precision[]), CAST(%(outcomes)s AS text[]),
            CAST(%(errors)s AS text[]), CAST(%(tracebacks)s AS text[]))
            AS t(id, attempt, delay, outcome, error, traceback))
    UPDATE {{soniq}}.jobs j SET
        state = CASE WHEN t.delay > 0 THEN 'scheduled' ELSE 'queued' END,
        scheduled_at = {_MOMENT},
        worker_id = NULL,
        attempts = {_NOTED}
    FROM t WHERE {_MINE}
    RETURNING CAST(j.id AS text)"""

LATER = f"""
    WITH t AS (
        SELECT * FROM unnest(
            CAST(%(ids)s AS uuid[]), CAST(%(attempts)s AS integer[]),
            CAST(%(delays)s AS double precision[]))
            AS t(id, attempt, delay))
    UPDATE {{soniq}}.jobs j SET
        state = CASE WHEN t.delay > 0 THEN 'scheduled' ELSE 'queued' END,
        scheduled_at = {_MOMENT},
        worker_id = NULL, attempt = j.attempt - 1, snoozes = j.snoozes + 1
    FROM t WHERE {_MINE}
    RETURNING CAST(j.id AS text)"""

BURY = f"""
    WITH t AS (
        SELECT * FROM unnest(
            CAST(%(ids)s AS uuid[]), CAST(%(attempts)s AS integer[]), CAST(%(reasons)s AS text[]),
            CAST(%(outcomes)s AS text[]), CAST(%(errors)s AS text[]),
            CAST(%(tracebacks)s AS text[]))
            AS t(id, attempt, reason, outcome, error, traceback)),
    gone AS (
        DELETE FROM {{soniq}}.jobs j USING t WHERE {_MINE}
        RETURNING j.id, j.task, j.queue, j.args, j.priority, j.attempt, j.max_attempts,
            j.scheduled_at, j.created_at, j.started_at, j.worker_id, j.timeout_seconds, j.tags,
            j.trace, {_NOTED} AS attempts, t.reason),
    kept AS (
        INSERT INTO {{soniq}}.dead_letters ({KEPT}, reason)
        SELECT {KEPT}, reason FROM gone {_TAKEN_OVER})
    SELECT CAST(id AS text) FROM gone"""

DROP = f"""
    WITH t AS (
        SELECT * FROM unnest(
            CAST(%(ids)s AS uuid[]), CAST(%(attempts)s AS integer[]), CAST(%(reasons)s AS text[]))
            AS t(id, attempt, reason)),
    gone AS (
        DELETE FROM {{soniq}}.jobs j USING t WHERE {_MINE}
        RETURNING j.*, t.reason),
    kept AS (
        INSERT INTO {{soniq}}.history ({KEPT}, state, reason)
        SELECT {KEPT}, 'cancelled', reason FROM gone)
    SELECT CAST(id AS text) FROM gone"""

# For the transaction it is in: its commit is safe from any fault but a crash of the server, which
# may forget the last ones, as if those jobs had not ended.
RELAX = "SELECT set_config('synchronous_commit', 'off', true)"

# `scheduled_at` stays, so that a job handed back keeps its place.
RELEASE = f"""
    WITH t AS (
        SELECT * FROM unnest(CAST(%(ids)s AS uuid[]), CAST(%(attempts)s AS integer[]))
            AS t(id, attempt)),
    back AS (
        UPDATE {{soniq}}.jobs j SET
            state = 'queued', worker_id = NULL, started_at = NULL, attempt = j.attempt - 1
        FROM t WHERE {_MINE}
        RETURNING j.id),
    told AS (
        SELECT CAST({{soniq}}.wake('*', CAST(%(notify)s AS text)) AS text)
        FROM (SELECT FROM back LIMIT 1) AS any_back)
    SELECT CAST(id AS text) FROM back LEFT JOIN told ON true"""


@dataclass(frozen=True, slots=True)
class Told:
    """What is written about one attempt; fields that its statement does not know stay empty."""

    id: str
    attempt: int
    delay: float = 0.0
    reason: str = ""
    outcome: str = ""
    error: str | None = None
    traceback: str | None = None


def finish(
    worker_id: str, ids: list[str], attempts: list[int], results: list[str | None]
) -> Query[str]:
    """Move jobs to history as done; three lists of one length, the results as JSON text."""
    params = {"worker": worker_id, "ids": ids, "attempts": attempts, "results": results}
    return Query(FINISH, params, _text)


def relax() -> Query[None]:
    """Do not wait for the disk at the end of this transaction; first of a `Batch`."""
    return Query(RELAX)


def again(worker_id: str, told: Sequence[Told]) -> Query[str]:
    """Send jobs round once more; the attempt counts."""
    return _query(AGAIN, worker_id, told, delays=[t.delay for t in told], **_failures(told))


def later(worker_id: str, told: Sequence[Told]) -> Query[str]:
    """Snooze jobs; the attempt does not count."""
    return _query(LATER, worker_id, told, delays=[t.delay for t in told])


def bury(worker_id: str, told: Sequence[Told]) -> Query[str]:
    """Make jobs dead letters."""
    return _query(BURY, worker_id, told, reasons=[t.reason for t in told], **_failures(told))


def drop(worker_id: str, told: Sequence[Told]) -> Query[str]:
    """Move jobs to history as cancelled."""
    return _query(DROP, worker_id, told, reasons=[t.reason for t in told])


def release(worker_id: str, told: Sequence[Told], notify: str) -> Query[str]:
    """Hand jobs back; the attempt does not count."""
    return _query(RELEASE, worker_id, told, notify=notify)


def _failures(told: Sequence[Told]) -> dict[str, object]:
    return {
        "outcomes": [t.outcome for t in told],
        "errors": [t.error for t in told],
        "tracebacks": [t.traceback for t in told],
    }


def _query(sql: LiteralString, worker_id: str, told: Sequence[Told], **more: object) -> Query[str]:
    params = {
        "worker": worker_id,
        "ids": [t.id for t in told],
        "attempts": [t.attempt for t in told],
        **more,
    }
    return Query(sql, params, _text)


def _text(row: Sequence[Any]) -> str:
    return str(row[0])
