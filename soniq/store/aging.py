"""Raising the priority of jobs that have waited long, in queues that ask for it."""

from __future__ import annotations

from typing import LiteralString

from ..steps import Query

AGING = """
    SELECT name, aging_seconds FROM {soniq}.queues WHERE aging_seconds IS NOT NULL ORDER BY name"""

# Those it has waited for: reckoned from the row, for a join of thousands took a second.
_STEPS: LiteralString = """
            CAST(least(1000, floor(extract(epoch FROM statement_timestamp() - j.scheduled_at)
                / CAST(%(seconds)s AS double precision))) AS smallint)"""

# Of each priority, one probe of the claims' index for each, the thousand that wait longest: those
# behind them are claimed after them in any case. Not of the first: nothing is before it. How many
# steps a job has gained is kept with it, so a step is gained once, whoever leads. Jobs behind gates
# are claimed in turns of their keys, and keep their priority.
AGE = f"""
    WITH RECURSIVE level AS (
        (SELECT j.priority FROM {{soniq}}.jobs j
         WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue = CAST(%(queue)s AS text)
         ORDER BY j.priority LIMIT 1)
        UNION ALL
        SELECT (SELECT j.priority FROM {{soniq}}.jobs j
                WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue = CAST(%(queue)s AS text)
                  AND j.priority > level.priority ORDER BY j.priority LIMIT 1)
        FROM level WHERE level.priority IS NOT NULL),
    oldest AS MATERIALIZED (
        SELECT o.id FROM (
            SELECT priority FROM level WHERE priority IS NOT NULL ORDER BY priority OFFSET 1) AS l
        CROSS JOIN LATERAL (
            SELECT j.id, coalesce(j.aged, 0) AS aged, {_STEPS} AS steps FROM {{soniq}}.jobs j
            WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue = CAST(%(queue)s AS text)
              AND j.priority = l.priority
            ORDER BY j.scheduled_at, j.id LIMIT 1000) AS o
        WHERE o.steps > o.aged),
    due AS MATERIALIZED (
        SELECT j.id FROM {{soniq}}.jobs j
        WHERE j.id = ANY (ARRAY (SELECT id FROM oldest)) AND j.state = 'queued'
        FOR UPDATE SKIP LOCKED)
    UPDATE {{soniq}}.jobs j SET
        priority = greatest(1, j.priority - ({_STEPS} - coalesce(j.aged, 0))), aged = {_STEPS}
    WHERE j.id = ANY (ARRAY (SELECT id FROM due))
    RETURNING CAST(j.id AS text)"""


def queues() -> Query[tuple[str, float]]:
    """List queues whose jobs gain priority, and after how many seconds of waiting each."""
    return Query(AGING, {}, lambda row: (str(row[0]), float(row[1])))


def age(queue: str, seconds: float) -> Query[str]:
    """Give waiting jobs of a queue the steps they have gained; answer the ids of those that did."""
    return Query(AGE, {"queue": queue, "seconds": seconds}, lambda row: str(row[0]))
