"""Signs of life, and what becomes of the jobs of those who give none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..steps import Query
from .endings import _TAKEN_OVER, KEPT

BEAT = """
    INSERT INTO {soniq}.workers
        (id, name, queues, tasks, concurrency, running, state, idle, version, rates)
    VALUES (CAST(%(id)s AS uuid), CAST(%(name)s AS text), CAST(%(queues)s AS text[]),
            CAST(%(tasks)s AS text[]), CAST(%(concurrency)s AS integer),
            CAST(%(running)s AS integer), CAST(%(state)s AS text), CAST(%(idle)s AS boolean),
            CAST(%(version)s AS text), CAST(CAST(%(rates)s AS text) AS jsonb))
    ON CONFLICT (id) DO UPDATE SET
        running = excluded.running, state = excluded.state, idle = excluded.idle,
        tasks = excluded.tasks, rates = excluded.rates, seen_at = statement_timestamp()
    RETURNING xmax = 0"""

IDLE = """
    UPDATE {soniq}.workers SET idle = CAST(%(idle)s AS boolean) WHERE id = CAST(%(id)s AS uuid)"""

SIGN_OUT = "DELETE FROM {soniq}.workers WHERE id = CAST(%(id)s AS uuid)"

# Of the attempts a worker believes it runs, those that are still its own. The worker names the
# state too (see `endings`), and leaves the primary key as the only way in.
HELD = """
    SELECT CAST(id AS text), cancel_requested FROM {soniq}.jobs
    WHERE id = ANY (CAST(%(ids)s AS uuid[])) AND worker_id = CAST(%(worker)s AS uuid)"""

# Two tables are unlogged: after a crash of the server both are empty, and the watch starts anew, so
# nobody alive is robbed. A row lock reads the newest version of its row, while the look for a live
# worker is not repeated; so `t` keeps only jobs that are still the lost worker's.
RESCUE = f"""
    WITH watching AS (
        INSERT INTO {{soniq}}.watch DEFAULT VALUES ON CONFLICT (single) DO NOTHING),
    live AS (
        SELECT id FROM {{soniq}}.workers WHERE seen_at > statement_timestamp()
            - make_interval(secs => CAST(%(timeout)s AS double precision))),
    locked AS MATERIALIZED (
        SELECT j.id, j.worker_id, j.attempt,
               CASE WHEN j.cancel_requested THEN 'cancelled'
                    WHEN j.attempt >= j.max_attempts THEN 'dead_letter' ELSE 'queued' END AS fate
        FROM {{soniq}}.jobs j
        WHERE j.state = 'processing' AND NOT EXISTS (SELECT FROM live WHERE live.id = j.worker_id)
          AND EXISTS (SELECT FROM {{soniq}}.watch WHERE since < statement_timestamp()
              - make_interval(secs => CAST(%(timeout)s AS double precision)))
        LIMIT 1000
        FOR UPDATE OF j SKIP LOCKED),
    t AS MATERIALIZED (
        SELECT j.id, j.task, j.queue, j.attempt, j.worker_id, locked.fate,
            coalesce(j.attempts, '[]') || jsonb_build_object(
                'attempt', j.attempt, 'outcome', 'worker_lost',
                'error', 'WorkerLost: worker ' || CAST(j.worker_id AS text)
                    || ' died or fell silent',
                'traceback', NULL, 'worker_id', j.worker_id, 'started_at', j.started_at,
                'ended_at', statement_timestamp()) AS attempts
        FROM {{soniq}}.jobs j JOIN locked
            ON j.id = locked.id AND j.attempt = locked.attempt AND j.worker_id = locked.worker_id
        WHERE j.id = ANY (ARRAY (SELECT id FROM locked))),
    back AS (
        UPDATE {{soniq}}.jobs j SET
            state = 'queued', worker_id = NULL, started_at = NULL, attempts = t.attempts
        FROM t
        WHERE j.id = ANY (ARRAY (SELECT id FROM t)) AND j.id = t.id AND t.fate = 'queued'
        RETURNING j.id),
    gone AS (
        DELETE FROM {{soniq}}.jobs j USING t
        WHERE j.id = ANY (ARRAY (SELECT id FROM t)) AND j.id = t.id AND t.fate <> 'queued'
        RETURNING j.id, j.task, j.queue, j.args, j.priority, j.attempt, j.max_attempts,
            j.scheduled_at, j.created_at, j.started_at, j.worker_id, j.timeout_seconds, j.tags,
            j.trace, t.attempts, t.fate),
    buried AS (
        INSERT INTO {{soniq}}.dead_letters ({KEPT}, reason)
        SELECT {KEPT}, 'all attempts used; the last worker died or fell silent'
        FROM gone WHERE fate = 'dead_letter' {_TAKEN_OVER}),
    dropped AS (
        INSERT INTO {{soniq}}.history ({KEPT}, state, reason)
        SELECT {KEPT}, 'cancelled', 'cancelled while it ran; its worker died'
        FROM gone WHERE fate = 'cancelled'),
    told AS (
        SELECT CAST({{soniq}}.wake('*', CAST(%(notify)s AS text)) AS text)
        FROM (SELECT FROM back LIMIT 1) AS any_back)
    SELECT CAST(id AS text), task, queue, attempt, fate, CAST(worker_id AS text),
           (SELECT count(*) FROM told)
    FROM t"""

FORGET_SILENT = """
    DELETE FROM {soniq}.workers WHERE seen_at < statement_timestamp()
        - make_interval(secs => CAST(%(timeout)s AS double precision))"""

LIST = """
    SELECT CAST(jsonb_agg(to_jsonb(w) || jsonb_build_object(
        'silent_seconds', extract(epoch FROM statement_timestamp() - w.seen_at))
        ORDER BY w.started_at) AS text) FROM {soniq}.workers w"""


@dataclass(frozen=True, slots=True)
class Sign:
    """What a worker says of itself with each beat."""

    id: str
    name: str
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    concurrency: int
    running: int
    state: str
    idle: bool
    version: str
    rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rescued:
    """A job of a worker that died.

    Attributes:
        fate: `queued`, `dead_letter` or `cancelled`.
        worker_id: Who held it.
    """

    id: str
    task: str
    queue: str
    attempt: int
    fate: str
    worker_id: str


def beat(sign: Sign) -> Query[bool]:
    """Report; answers whether the worker was unknown (new, or forgotten after a crash)."""
    params = {
        "id": sign.id,
        "name": sign.name,
        "queues": list(sign.queues) or None,
        "tasks": list(sign.tasks),
        "concurrency": sign.concurrency,
        "running": sign.running,
        "state": sign.state,
        "idle": sign.idle,
        "version": sign.version,
        "rates": json.dumps(sign.rates),
    }
    return Query(BEAT, params, lambda row: bool(row[0]))


def set_idle(worker_id: str, *, idle: bool) -> Query[None]:
    """Say whether a notification would be of use."""
    return Query(IDLE, {"id": worker_id, "idle": idle})


def sign_out(worker_id: str) -> Query[None]:
    """Leave; whatever is still held is for the others to rescue."""
    return Query(SIGN_OUT, {"id": worker_id})


def held(worker_id: str, ids: Sequence[str]) -> Query[tuple[str, bool]]:
    """Of these jobs, tell those still held by the worker, and whether each was asked to stop."""
    params = {"worker": worker_id, "ids": list(ids)}
    return Query(HELD, params, lambda row: (str(row[0]), bool(row[1])))


def rescue(timeout_seconds: float, notify: str) -> Query[Rescued]:
    """Give up to a thousand jobs of silent workers back, or bury those without attempts left.

    The first look ever, or since a crash of the server, only starts the watch.
    """
    params = {"timeout": timeout_seconds, "notify": notify}
    return Query(RESCUE, params, lambda row: Rescued(*row[:6]))


def forget_silent(timeout_seconds: float) -> Query[None]:
    """Take silent workers off the list."""
    return Query(FORGET_SILENT, {"timeout": timeout_seconds})


def listed() -> Query[Any]:
    """List the workers as one JSON array."""
    return Query(LIST, {}, lambda row: row[0])
