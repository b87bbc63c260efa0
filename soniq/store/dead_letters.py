"""Dead letters: looked at, replayed, deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import JobNotFound
from ..job.codec import decode_row
from ..job.ids import new_id
from ..job.record import DeadLetter
from ..steps import Query, Steps

_RECORD = """
    SELECT CAST(to_jsonb(d) || jsonb_build_object('state', 'dead_letter', 'finished_at', d.died_at)
                AS text)
    FROM {soniq}.dead_letters d"""

GET = f"{_RECORD} WHERE d.id = CAST(%(id)s AS uuid)"

LIST = f"""
    {_RECORD}
    WHERE (CAST(%(queue)s AS text) IS NULL OR d.queue = CAST(%(queue)s AS text))
      AND (CAST(%(task)s AS text) IS NULL OR d.task = CAST(%(task)s AS text))
      AND (CAST(%(before)s AS uuid) IS NULL OR d.id < CAST(%(before)s AS uuid))
    ORDER BY d.id DESC LIMIT CAST(%(limit)s AS integer)"""

# The new job starts with all its attempts; the dead letter stays and points at it.
REPLAY = """
    WITH dead AS (
        UPDATE {soniq}.dead_letters
        SET replayed_at = statement_timestamp(), replayed_as = CAST(%(new_id)s AS uuid)
        WHERE id = CAST(%(id)s AS uuid)
        RETURNING task, queue, args, priority, max_attempts, timeout_seconds, tags, trace),
    job AS (
        INSERT INTO {soniq}.jobs (id, task, queue, args, priority, max_attempts, timeout_seconds,
                                  tags, trace)
        SELECT CAST(%(new_id)s AS uuid), task, queue, args, priority, max_attempts,
               timeout_seconds, tags, trace
        FROM dead RETURNING id, queue)
    SELECT CAST(id AS text), CAST({soniq}.wake(queue, CAST(%(notify)s AS text)) AS text) FROM job"""

DELETE = "DELETE FROM {soniq}.dead_letters WHERE id = CAST(%(id)s AS uuid) RETURNING id"


def _record(row: Sequence[Any]) -> DeadLetter:
    return DeadLetter.of(decode_row(row[0]))


def get(job_id: str) -> Steps[DeadLetter]:
    """Find one.

    Raises:
        JobNotFound: There is none.
    """
    found = yield from Query(GET, {"id": job_id}, _record)
    if not found:
        raise JobNotFound(f"There is no dead letter {job_id}.")
    return found[0]


def list_letters(
    *, queue: str | None, task: str | None, limit: int, before: str | None
) -> Steps[list[DeadLetter]]:
    """List one page, newest job first; the next page is `before` the last id of this one."""
    params = {"queue": queue, "task": task, "limit": limit, "before": before}
    return (yield from Query(LIST, params, _record))


def replay(job_id: str, notify: str) -> Steps[str]:
    """Make a new job of it; answer the new id.

    Raises:
        JobNotFound: There is none.
    """
    params = {"id": job_id, "new_id": new_id(), "notify": notify}
    made = yield from Query(REPLAY, params, lambda row: str(row[0]))
    if not made:
        raise JobNotFound(f"There is no dead letter {job_id}.")
    return made[0]


def delete(job_id: str) -> Steps[bool]:
    """Forget it; answer whether there was one."""
    return bool((yield from Query(DELETE, {"id": job_id})))
