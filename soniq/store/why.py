"""What stands in a job's way: the facts, for `policy/why.py` to make sentences of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ..job.record import Job
from ..policy.why import Facts, Gate, why_not
from ..steps import Query, Steps
from .jobs import get
from .queues import PAUSED

# To know that a thousand are before it is enough, and found by the index of the claims.
MOST_AHEAD = 1000

FACTS = f"""
    WITH live AS (
        SELECT w.tasks, w.concurrency, w.running FROM {{soniq}}.workers w
        WHERE w.seen_at > statement_timestamp()
                - make_interval(secs => CAST(%(patience)s AS double precision))
          AND (w.queues IS NULL OR CAST(%(queue)s AS text) = ANY (w.queues))),
    able AS (SELECT concurrency, running FROM live WHERE CAST(%(task)s AS text) = ANY (tasks)),
    held AS (
        SELECT me.gate, g.concurrency, g.key_concurrency,
            (SELECT count(*) FROM {{soniq}}.jobs r
             WHERE r.worker_id IS NOT NULL AND r.gate IS NOT NULL AND r.task = g.task) AS running,
            (SELECT count(*) FROM {{soniq}}.jobs r
             WHERE r.worker_id IS NOT NULL AND r.gate IS NOT NULL AND r.task = g.task
               AND r.gate = me.gate) AS key_running,
            extract(epoch FROM CASE WHEN g.breaker_failures IS NULL THEN NULL
                WHEN g.breaker_by_key THEN k.closed_until
                ELSE g.closed_until END - statement_timestamp()) AS closed_seconds,
            g.breaker_by_key AS stopped_by_key,
            CAST(CASE WHEN g.breaker_by_key THEN k.probe ELSE g.probe END AS text) AS tried_with,
            (SELECT CAST(h.id AS text) FROM {{soniq}}.jobs h
             WHERE h.worker_id IS NULL AND h.state <> 'queued'
               AND h.gate >= 'o' AND h.gate < 'p' AND h.task = me.task AND h.gate = me.gate
               AND h.attempt + h.snoozes > 0
             ORDER BY h.id LIMIT 1) AS retried_id,
            (SELECT r.wait_seconds FROM {{soniq}}.rate_room(g.rate_seconds, g.rate_burst,
                CASE WHEN g.rate_by_key THEN k.spent_until ELSE g.spent_until END,
                statement_timestamp()) AS r
             WHERE r.room <= 0 AND g.rate_seconds IS NOT NULL) AS rate_wait_seconds
        FROM {{soniq}}.jobs me
        JOIN {{soniq}}.gates g ON g.task = me.task AND g.key = ''
        LEFT JOIN {{soniq}}.gates k ON k.task = me.task AND k.key = me.gate
        WHERE me.id = CAST(%(id)s AS uuid) AND me.gate IS NOT NULL),
    ahead AS (
        (SELECT FROM {{soniq}}.jobs j
         WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue = CAST(%(queue)s AS text)
           AND (j.priority, j.scheduled_at, j.id) < (CAST(%(priority)s AS smallint),
                CAST(%(due)s AS timestamptz), CAST(%(id)s AS uuid))
           AND (SELECT me.gate FROM {{soniq}}.jobs me WHERE me.id = CAST(%(id)s AS uuid)) IS NULL
         ORDER BY j.priority, j.scheduled_at, j.id LIMIT CAST(%(most)s AS integer))
        UNION ALL
        (SELECT FROM {{soniq}}.jobs j
         WHERE j.state = 'queued' AND j.gate IS NOT NULL AND j.queue = CAST(%(queue)s AS text)
           AND j.task = CAST(%(task)s AS text)
           AND j.gate = (SELECT me.gate FROM {{soniq}}.jobs me WHERE me.id = CAST(%(id)s AS uuid))
           AND (j.priority, j.scheduled_at, j.id) < (CAST(%(priority)s AS smallint),
                CAST(%(due)s AS timestamptz), CAST(%(id)s AS uuid))
         ORDER BY j.priority, j.scheduled_at, j.id LIMIT CAST(%(most)s AS integer)))
    SELECT CAST(json_build_object(
        'due_seconds', extract(epoch FROM CAST(%(due)s AS timestamptz) - statement_timestamp()),
        'paused', coalesce({PAUSED}, false),
        'paused_seconds', extract(epoch FROM q.paused_until - statement_timestamp()),
        'workers', (SELECT count(*) FROM live),
        'able', (SELECT count(*) FROM able),
        'slots', (SELECT coalesce(sum(concurrency), 0) FROM able),
        'running', (SELECT coalesce(sum(running), 0) FROM able),
        'ahead', (SELECT count(*) FROM ahead),
        'concurrency', q.concurrency,
        'rate_wait_seconds', (
            SELECT r.wait_seconds FROM {{soniq}}.rate_room(
                q.rate_seconds / q.rate_count,
                coalesce(q.rate_burst, CAST(greatest(1, floor(
                    0.1 * q.rate_count / q.rate_seconds + 1e-9)) AS integer)),
                (SELECT g.spent_until FROM {{soniq}}.gates g WHERE g.task = '' AND g.key = q.name),
                statement_timestamp()) AS r
            WHERE r.room <= 0 AND q.rate_count IS NOT NULL),
        'queue_running', (
            SELECT count(*) FROM {{soniq}}.jobs j
            WHERE j.state = 'processing' AND j.queue = q.name AND q.concurrency IS NOT NULL),
        'gate', (SELECT to_json(held) FROM held),
        'held_by', (
            SELECT w.name FROM {{soniq}}.workers w WHERE w.id = CAST(%(worker)s AS uuid)),
        'silent_seconds', (
            SELECT extract(epoch FROM statement_timestamp() - w.seen_at)
            FROM {{soniq}}.workers w WHERE w.id = CAST(%(worker)s AS uuid))) AS text)
    FROM (SELECT) AS one LEFT JOIN {{soniq}}.queues q ON q.name = CAST(%(queue)s AS text)"""


def why(job_id: str, patience_seconds: float) -> Steps[str]:
    """Tell in a sentence or two why a job has not run, or what became of it.

    Raises:
        JobNotFound: There is none, or its record was pruned.
    """
    job = yield from get(job_id)
    if job.status.ended:
        return why_not(job, None, patience_seconds)
    (facts,) = yield from Query(FACTS, _parameters(job, patience_seconds), _facts)
    return why_not(job, facts, patience_seconds)


def _parameters(job: Job, patience_seconds: float) -> dict[str, object]:
    due: datetime = job.scheduled_at
    return {
        "id": job.id,
        "queue": job.queue,
        "task": job.task,
        "priority": job.priority,
        "due": due,
        "worker": job.worker_id,
        "patience": patience_seconds,
        "most": MOST_AHEAD + 1,
    }


def _facts(row: Sequence[Any]) -> Facts:
    told = json.loads(row[0])
    gate = told.pop("gate")
    return Facts(**told, gate=None if gate is None else Gate(**gate))
