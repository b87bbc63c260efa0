"""Taking jobs: which queues have work, the claim, and the moment scheduled jobs become due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from ..job.record import Claimed
from ..steps import Query
from .gates import HELD

# A skip scan: one index probe for each queue that has work, however deep the queues are.
LANES = """
    WITH RECURSIVE lane AS (
        (SELECT queue FROM {soniq}.jobs WHERE state = 'queued' AND gate IS NULL
         ORDER BY queue LIMIT 1)
        UNION ALL
        SELECT (SELECT j.queue FROM {soniq}.jobs j
                WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue > lane.queue
                ORDER BY j.queue LIMIT 1)
        FROM lane WHERE lane.queue IS NOT NULL)
    SELECT queue FROM lane WHERE queue IS NOT NULL"""

# The same in the gaps between queues that are not to be walked over; '' is below all names.
LANES_BESIDE = """
    WITH RECURSIVE gap AS (
        SELECT low, lead(low) OVER (ORDER BY low) AS high
        FROM unnest(CAST(%(beside)s AS text[])) AS b(low)),
    lane AS (
        SELECT low AS queue, high, false AS found FROM gap
        UNION ALL
        SELECT CASE WHEN lane.high IS NULL THEN (
                SELECT j.queue FROM {soniq}.jobs j
                WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue > lane.queue
                ORDER BY j.queue LIMIT 1)
            ELSE (
                SELECT j.queue FROM {soniq}.jobs j
                WHERE j.state = 'queued' AND j.gate IS NULL
                  AND j.queue > lane.queue AND j.queue < lane.high
                ORDER BY j.queue LIMIT 1) END, lane.high, true
        FROM lane WHERE lane.queue IS NOT NULL)
    SELECT queue FROM lane WHERE found AND queue IS NOT NULL"""

# ORDER BY and LIMIT hold the planner to one probe of the index: a plain EXISTS became a join with
# every queued row when statistics said that there were none.
LANES_OF = """
    SELECT q.queue FROM unnest(CAST(%(queues)s AS text[])) WITH ORDINALITY AS q(queue, place)
    CROSS JOIN LATERAL (
        SELECT FROM {soniq}.jobs j
        WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue = q.queue
        ORDER BY j.priority, j.scheduled_at, j.id LIMIT 1) AS head
    ORDER BY q.place"""

# Paused, or with a limit: of those, jobs are counted before they are taken (see `gates`).
_CLOSED: LiteralString = """(
              q.paused AND (q.paused_until IS NULL OR q.paused_until > statement_timestamp())
              OR q.concurrency IS NOT NULL OR q.rate_count IS NOT NULL)"""

_TAKE: LiteralString = """
    UPDATE {soniq}.jobs j SET
        state = 'processing', attempt = j.attempt + 1, worker_id = CAST(%(worker)s AS uuid),
        started_at = statement_timestamp()"""

# The last is asked in a SELECT of its own, which is run once, for the first row.
_TAKEN: LiteralString = """
    RETURNING CAST(j.id AS text), j.task, j.queue, CAST(j.args AS text), j.attempt,
        j.max_attempts, j.snoozes, j.priority, j.scheduled_at, j.created_at, j.timeout_seconds,
        CAST(to_jsonb(j.tags) AS text), CAST(j.trace AS text), j.cancel_requested,
        (SELECT date_part('epoch', clock_timestamp() - statement_timestamp()))"""

# The rows are found in the order of the index jobs_claim, and updated by primary key through an
# array, because a join would leave the choice of a plan to statistics that are always wrong here.
# SKIP LOCKED: two workers never wait for each other's row.
#
# One queue has a statement of its own, because it is planned once: the planner thinks that the one
# for several gains by a new plan each time, which takes as long as the rest of the claim.
_HEAD: LiteralString = f"""
        FROM {{soniq}}.jobs j
        WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue = CAST(%(queue)s AS text)
          AND j.task = ANY (CAST(%(tasks)s AS text[]))
          AND NOT EXISTS (
            SELECT FROM {{soniq}}.queues q
            WHERE q.name = CAST(%(queue)s AS text) AND {_CLOSED})
        ORDER BY j.priority, j.scheduled_at, j.id
        LIMIT CAST(%(number)s AS integer)
        FOR UPDATE OF j SKIP LOCKED"""

CLAIM = f"""{_TAKE}
    WHERE j.id = ANY (ARRAY (SELECT j.id{_HEAD})){_TAKEN}"""

# How large the arguments are as text; of small ones that is guessed, because writing them costs.
_SIZE: LiteralString = """
            CASE WHEN pg_column_size(j.args) > 500 THEN octet_length(CAST(j.args AS text))
                 ELSE pg_column_size(j.args) END AS size"""

# Rows beyond the bound were locked for nothing, and are free again at once.
_BOUND: LiteralString = """id FROM (
            SELECT id, row_number() OVER () AS place,
                   sum(size) OVER (ROWS UNBOUNDED PRECEDING) AS upto
            FROM picked) AS p
        WHERE place <= CAST(%(slots)s AS integer) OR upto <= CAST(%(bytes)s AS bigint)"""

CLAIM_AHEAD = f"""
    WITH picked AS MATERIALIZED (SELECT j.id, {_SIZE}{_HEAD}){_TAKE}
    WHERE j.id = ANY (ARRAY (SELECT {_BOUND})){_TAKEN}"""

CLAIM_LANES = f"""
    WITH picked AS MATERIALIZED (
        SELECT p.id, p.size
        FROM unnest(CAST(%(queues)s AS text[]), CAST(%(numbers)s AS integer[])) AS a(queue, number)
        CROSS JOIN LATERAL (
            SELECT j.id, {_SIZE} FROM {{soniq}}.jobs j
            WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue = a.queue
              AND j.task = ANY (CAST(%(tasks)s AS text[]))
            ORDER BY j.priority, j.scheduled_at, j.id
            LIMIT a.number
            FOR UPDATE SKIP LOCKED) AS p
        WHERE NOT EXISTS (
            SELECT FROM {{soniq}}.queues q WHERE q.name = a.queue AND {_CLOSED})){_TAKE}
    WHERE j.id = ANY (ARRAY (SELECT {_BOUND})){_TAKEN}"""

# Of each priority from a moment on, in their order. LIMIT stops the walk, so nothing beyond it is
# locked.
CLAIM_ABOVE = f"""
    WITH picked AS MATERIALIZED (
        SELECT p.id, p.size
        FROM unnest(CAST(%(priorities)s AS smallint[]), CAST(%(moments)s AS timestamptz[]))
            AS l(priority, since)
        CROSS JOIN LATERAL (
            SELECT j.id, {_SIZE} FROM {{soniq}}.jobs j
            WHERE j.state = 'queued' AND j.gate IS NULL AND j.queue = CAST(%(queue)s AS text)
              AND j.priority = l.priority AND j.scheduled_at >= l.since
              AND j.task = ANY (CAST(%(tasks)s AS text[]))
            ORDER BY j.scheduled_at, j.id
            LIMIT CAST(%(number)s AS integer)
            FOR UPDATE OF j SKIP LOCKED) AS p
        WHERE NOT EXISTS (
            SELECT FROM {{soniq}}.queues q
            WHERE q.name = CAST(%(queue)s AS text) AND {_CLOSED})
        LIMIT CAST(%(number)s AS integer)){_TAKE}
    WHERE j.id = ANY (ARRAY (SELECT {_BOUND})){_TAKEN}"""

# A thousand at a time, so that a million that fall due at once do not make one huge transaction.
STAGE = f"""
    WITH due AS (
        SELECT id FROM {{soniq}}.jobs
        WHERE state = 'scheduled' AND scheduled_at <= statement_timestamp()
        ORDER BY scheduled_at LIMIT 1000
        FOR UPDATE SKIP LOCKED),
    moved AS (
        UPDATE {{soniq}}.jobs j SET state = 'queued',
            scheduled_at = CASE WHEN {HELD} THEN j.created_at ELSE j.scheduled_at END
        WHERE j.id = ANY (ARRAY (SELECT id FROM due)) RETURNING j.queue),
    summed AS (
        SELECT count(*) AS moved, count(DISTINCT queue) AS queues, min(queue) AS queue FROM moved)
    SELECT moved,
        (SELECT extract(epoch FROM min(scheduled_at) - statement_timestamp())
         FROM {{soniq}}.jobs WHERE state = 'scheduled' AND scheduled_at > statement_timestamp()),
        CASE WHEN moved > 0 THEN CAST({{soniq}}.wake(
            CASE WHEN queues = 1 THEN queue ELSE '*' END, CAST(%(notify)s AS text)) AS text) END
    FROM summed"""

# What waits for tasks that a worker does not have, among the first thousand jobs, queue by queue: a
# thousand of each would be sorted, and read, whole when statistics are wrong.
UNKNOWN = """
    SELECT DISTINCT task FROM (
        SELECT task FROM {soniq}.jobs
        WHERE state = 'queued' AND gate IS NULL AND queue = ANY (CAST(%(queues)s AS text[]))
        ORDER BY queue, priority, scheduled_at, id LIMIT 1000) AS head
    WHERE task <> ALL (CAST(%(tasks)s AS text[]))"""


# A claim whose answer was lost with its connection: held by a worker that does not know.
FORGOTTEN = """
    UPDATE {soniq}.jobs SET
        state = 'queued', worker_id = NULL, started_at = NULL, attempt = attempt - 1
    WHERE worker_id = CAST(%(worker)s AS uuid) AND state = 'processing'
      AND id <> ALL (CAST(%(known)s AS uuid[]))
    RETURNING CAST(id AS text)"""


@dataclass(frozen=True, slots=True)
class Staged:
    """What a staging did.

    Attributes:
        moved: Jobs that became due.
        next_seconds: Time until the next one will, None if none is scheduled.
    """

    moved: int
    next_seconds: float | None


def lanes(queues: Sequence[str], *, beside: Sequence[str] = ()) -> Query[str]:
    """List queues that have work; of these, or of all if the list is empty.

    Args:
        queues: Which may be listed.
        beside: Which are not even looked at.
    """
    if queues:
        rest = [queue for queue in queues if queue not in beside]
        return Query(LANES_OF, {"queues": rest}, lambda row: str(row[0]))
    if beside:
        return Query(LANES_BESIDE, {"beside": ["", *beside]}, lambda row: str(row[0]))
    return Query(LANES, {}, lambda row: str(row[0]))


def claim(
    worker_id: str,
    numbers: Mapping[str, int],
    tasks: Sequence[str],
    *,
    slots: int | None = None,
    most_bytes: int = 0,
    above: Sequence[tuple[int, datetime]] | None = None,
) -> Query[Claimed]:
    """Take up to so many jobs from each queue, of tasks this worker has; in no order.

    Args:
        worker_id: Who takes them.
        numbers: How many from which queue.
        tasks: The names of the tasks it has.
        slots: Of more jobs than these, only as many as their arguments stay within `most_bytes`;
            None is no bound.
        most_bytes: The bytes of all arguments together.
        above: Of one queue only these priorities, in their order, each from a moment on; None is
            all there is.
    """
    params: dict[str, object] = {"worker": worker_id, "tasks": list(tasks)}
    wanted = sum(numbers.values())
    bound = {"slots": wanted if slots is None else slots, "bytes": most_bytes}
    if len(numbers) > 1:
        params |= bound
        params |= {"queues": list(numbers), "numbers": list(numbers.values())}
        return Query(CLAIM_LANES, params, Claimed._make, binary=True)
    ((params["queue"], params["number"]),) = numbers.items()
    if above is not None:
        params |= bound
        params |= {"priorities": [p for p, _ in above], "moments": [since for _, since in above]}
        return Query(CLAIM_ABOVE, params, Claimed._make, binary=True)
    if slots is None or wanted <= slots:
        return Query(CLAIM, params, Claimed._make, binary=True)
    return Query(CLAIM_AHEAD, params | bound, Claimed._make, binary=True)


def stage(notify: str) -> Query[Staged]:
    """Queue up to a thousand scheduled jobs whose moment has come."""
    return Query(STAGE, {"notify": notify}, _staged)


def hand_back_forgotten(worker_id: str, known: Sequence[str]) -> Query[str]:
    """Release what the worker holds without knowing; answers the ids."""
    return Query(FORGOTTEN, {"worker": worker_id, "known": list(known)}, lambda row: str(row[0]))


def unknown_tasks(queues: Sequence[str], tasks: Sequence[str]) -> Query[str]:
    """List names among the first jobs of queues that are none of `tasks`."""
    return Query(UNKNOWN, {"queues": list(queues), "tasks": list(tasks)}, lambda row: str(row[0]))


def _staged(row: Sequence[Any]) -> Staged:
    return Staged(int(row[0]), None if row[1] is None else float(row[1]))
