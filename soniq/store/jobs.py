"""Live jobs, and finding a job wherever it lies: the operations behind both clients."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString

from ..errors import InvalidTransition, JobNotFound
from ..job.codec import decode_row
from ..job.ids import new_id
from ..job.record import Job, JobStatus, NewJob
from ..policy.waking import Waking
from ..steps import Query, Steps, Where
from . import keys, rows
from .endings import KEPT
from .gates import HELD

# A job is queued or scheduled by the server's clock at the statement, not at the transaction's
# start: a delay in a long transaction would else be over before its COMMIT.
_DUE = """
    coalesce(
        CAST(%(moment)s AS timestamptz),
        statement_timestamp() + make_interval(secs => CAST(%(delay)s AS double precision)),
        statement_timestamp())"""

_TELL = """
    CASE
        WHEN state = 'queued' THEN CAST({soniq}.wake(queue, CAST(%(notify)s AS text)) AS text)
        WHEN scheduled_at < statement_timestamp() + interval '6 seconds'
            THEN CAST({soniq}.wake('*', CAST(%(notify)s AS text)) AS text)
    END"""

INSERT = f"""
    WITH due AS (SELECT {_DUE} AS moment),
    job AS (
        INSERT INTO {{soniq}}.jobs (id, task, queue, args, state, priority, scheduled_at,
                                    max_attempts, timeout_seconds, tags, trace, gate)
        SELECT CAST(%(id)s AS uuid), CAST(%(task)s AS text), CAST(%(queue)s AS text),
               CAST(CAST(%(args)s AS text) AS jsonb),
               CASE WHEN due.moment > statement_timestamp() THEN 'scheduled' ELSE 'queued' END,
               CAST(%(priority)s AS smallint), due.moment, CAST(%(max_attempts)s AS integer),
               CAST(%(timeout)s AS double precision), CAST(%(tags)s AS text[]),
               CAST(CAST(%(trace)s AS text) AS jsonb), CAST(%(gate)s AS text)
        FROM due
        RETURNING id, queue, state, scheduled_at)
    SELECT CAST(id AS text), {_TELL} FROM job"""

# Most jobs ask for nothing special: what is left out here costs no parameter and no expression. All
# parameters are texts: the driver has a short way for those. Figures: docs/why/performance.md.
INSERT_PLAIN = """
    INSERT INTO {soniq}.jobs (id, task, queue, args, priority, max_attempts)
    VALUES (CAST(%(id)s AS uuid), CAST(%(task)s AS text), CAST(%(queue)s AS text),
            CAST(CAST(%(args)s AS text) AS jsonb), CAST(CAST(%(priority)s AS text) AS smallint),
            CAST(CAST(%(max_attempts)s AS text) AS integer))"""

# `wake`, written out, is planned with the statement and not at each call. A row comes back when
# nobody was idle, unless that may be old news: the snapshot of a transaction may be of long ago.
# pg_notify's answer is void, which is not null: no row.
INSERT_PLAIN_AND_WAKE = f"""
    WITH job AS ({INSERT_PLAIN})
    SELECT 1 WHERE CASE
        WHEN EXISTS (
            SELECT FROM {{soniq}}.workers w
            WHERE w.idle AND (w.queues IS NULL OR CAST(%(queue)s AS text) = ANY (w.queues)))
        THEN CAST(pg_notify({{channel}}, 'q:' || CAST(%(queue)s AS text)) AS text) IS NULL
        ELSE current_setting('transaction_isolation') = 'read committed' END"""

_LIVE = "SELECT CAST(to_jsonb(j) AS text) FROM {soniq}.jobs j"
_PAST = "SELECT CAST(to_jsonb(h) AS text) FROM {soniq}.history h"
_DEAD = """
    SELECT CAST(to_jsonb(d) || jsonb_build_object('state', 'dead_letter', 'finished_at', d.died_at)
                AS text)
    FROM {soniq}.dead_letters d"""

GET = f"""
    {_LIVE} WHERE j.id = CAST(%(id)s AS uuid)
    UNION ALL {_DEAD} WHERE d.id = CAST(%(id)s AS uuid)
    UNION ALL {_PAST} WHERE h.id = CAST(%(id)s AS uuid)"""

_PAGE = """
    WHERE (CAST(%(queue)s AS text) IS NULL OR queue = CAST(%(queue)s AS text))
      AND (CAST(%(task)s AS text) IS NULL OR task = CAST(%(task)s AS text))
      AND (CAST(%(before)s AS uuid) IS NULL OR id < CAST(%(before)s AS uuid))"""
_ORDER = " ORDER BY id DESC LIMIT CAST(%(limit)s AS integer)"

LIST_LIVE = f"""
    {_LIVE} {_PAGE}
      AND (CAST(%(state)s AS text) IS NULL OR state = CAST(%(state)s AS text)) {_ORDER}"""
LIST_PAST = f"""
    {_PAST} {_PAGE}
      AND (CAST(%(state)s AS text) IS NULL OR state = CAST(%(state)s AS text)) {_ORDER}"""
LIST_DEAD = f"{_DEAD} {_PAGE} {_ORDER}"

# At one moment: between one look and the next a job may leave what was not yet looked at.
LIST_ALL = f"({LIST_LIVE}) UNION ALL ({LIST_PAST}) UNION ALL ({LIST_DEAD})"

# A waiting job leaves at once; a running one is asked to stop, and its worker is told.
CANCEL = f"""
    WITH target AS (
        SELECT id, state FROM {{soniq}}.jobs WHERE id = CAST(%(id)s AS uuid) FOR UPDATE),
    gone AS (
        DELETE FROM {{soniq}}.jobs
        WHERE id = (SELECT id FROM target WHERE state <> 'processing')
        RETURNING {KEPT}, gate, snoozes),
    kept AS (
        INSERT INTO {{soniq}}.history ({KEPT}, state, reason)
        SELECT {KEPT}, 'cancelled', 'cancelled before it ran' FROM gone),
    asked AS (
        UPDATE {{soniq}}.jobs SET cancel_requested = true
        WHERE id = (SELECT id FROM target WHERE state = 'processing') RETURNING id)
    SELECT CASE WHEN {HELD} THEN CAST({{soniq}}.wake('*', CAST(%(notify)s AS text)) AS text) END
    FROM gone j
    UNION ALL SELECT CASE WHEN CAST(%(notify)s AS text) <> 'off'
        THEN CAST(pg_notify({{channel}}, 'c:' || id) AS text) END FROM asked"""

DELETE = f"""
    WITH live AS (
        DELETE FROM {{soniq}}.jobs
        WHERE id = CAST(%(id)s AS uuid) AND state <> 'processing'
        RETURNING gate, attempt, snoozes),
    past AS (DELETE FROM {{soniq}}.history WHERE id = CAST(%(id)s AS uuid) RETURNING id),
    dead AS (DELETE FROM {{soniq}}.dead_letters WHERE id = CAST(%(id)s AS uuid) RETURNING id)
    SELECT CASE WHEN {HELD} THEN CAST({{soniq}}.wake('*', CAST(%(notify)s AS text)) AS text) END
    FROM live j
    UNION ALL SELECT NULL FROM past UNION ALL SELECT NULL FROM dead"""

RUN_NOW = f"""
    WITH job AS (
        UPDATE {{soniq}}.jobs j SET state = 'queued',
            scheduled_at = CASE WHEN {HELD} THEN j.created_at ELSE statement_timestamp() END
        WHERE j.id = CAST(%(id)s AS uuid) AND j.state = 'scheduled' RETURNING j.id, j.queue)
    SELECT CAST(id AS text), CAST({{soniq}}.wake(queue, CAST(%(notify)s AS text)) AS text)
    FROM job"""

RESCHEDULE = f"""
    WITH due AS (SELECT {_DUE} AS moment),
    job AS (
        UPDATE {{soniq}}.jobs j SET
            scheduled_at = CASE WHEN {HELD} AND due.moment <= statement_timestamp()
                                THEN j.created_at ELSE due.moment END,
            state = CASE WHEN due.moment > statement_timestamp()
                         THEN 'scheduled' ELSE 'queued' END
        FROM due
        WHERE j.id = CAST(%(id)s AS uuid) AND j.state IN ('scheduled', 'queued')
        RETURNING j.id, j.queue, j.state, j.scheduled_at)
    SELECT CAST(id AS text), {_TELL} FROM job"""

# A finished job runs again as a new one; the old record stays as it is.
COPY_OF_PAST = f"""
    WITH job AS (
        INSERT INTO {{soniq}}.jobs (id, task, queue, args, priority, max_attempts,
                                    timeout_seconds, tags, trace)
        SELECT CAST(%(new_id)s AS uuid), task, queue, args, priority, max_attempts,
               timeout_seconds, tags, trace
        FROM {{soniq}}.history WHERE id = CAST(%(id)s AS uuid) LIMIT 1
        RETURNING id, queue, state, scheduled_at)
    SELECT CAST(id AS text), {_TELL} FROM job"""


_HERE = Where()


def text(row: Sequence[Any]) -> str:
    """Decode a row's first column, which the statement cast to text."""
    return str(row[0])


def job_of(row: Sequence[Any]) -> Job:
    """Decode a row that is one JSON object."""
    return Job.of(decode_row(row[0]))


def enqueue(job: NewJob, notify: str, waking: Waking) -> Steps[str]:
    """Store one job; answer its id, or that of the job that has its key.

    Raises:
        DuplicateJob: Its key is held, and it asks for an error then.
    """
    if notify == "always" or not job.placement.plain:
        if job.placement.unique is not None:
            return (yield from keys.enqueue(job, notify))
        yield from Query(INSERT, {**rows.parameters(job), "notify": notify})
    elif notify == "off":
        yield from Query(INSERT_PLAIN, rows.texts(job))
    else:
        yield from _enqueue_and_wake(job, waking)
    return job.id


def _enqueue_and_wake(job: NewJob, waking: Waking) -> Steps[None]:
    place, queue = (yield _HERE), job.placement.queue
    if waking.is_needless(place, queue):
        yield from Query(INSERT_PLAIN, rows.texts(job))
        return
    began = waking.clock()
    if (yield from Query(INSERT_PLAIN_AND_WAKE, rows.texts(job))):
        waking.found_nobody(place, queue, began)


def find(job_id: str) -> Steps[Job | None]:
    """Find a job wherever it lies."""
    found = yield from Query(GET, {"id": job_id}, job_of)
    return found[0] if found else None


def get(job_id: str) -> Steps[Job]:
    """Find a job wherever it lies.

    Raises:
        JobNotFound: There is none, or its record was pruned.
    """
    job = yield from find(job_id)
    if job is None:
        raise _no_job(job_id)
    return job


def _no_job(job_id: str) -> JobNotFound:
    return JobNotFound(
        f"There is no job {job_id}. It was rolled back, deleted, or finished longer ago than "
        "result_ttl."
    )


def list_jobs(
    *,
    status: JobStatus | None,
    queue: str | None,
    task: str | None,
    limit: int,
    before: str | None,
) -> Steps[list[Job]]:
    """List one page of jobs, newest first; the next page is `before` the last id of this one."""
    params = {"queue": queue, "task": task, "limit": limit, "before": before}
    params["state"] = None if status is None else str(status)
    found = yield from Query(_lists(status), params, job_of)
    return sorted(found, key=lambda job: job.id, reverse=True)[:limit]


def _lists(status: JobStatus | None) -> LiteralString:
    if status is None:
        return LIST_ALL
    if status is JobStatus.DEAD_LETTER:
        return LIST_DEAD
    return LIST_PAST if status.ended else LIST_LIVE


def cancel(job_id: str, notify: str) -> Steps[bool]:
    """Cancel a waiting job, or ask a running one to stop; answer whether either was the case."""
    return bool((yield from Query(CANCEL, {"id": job_id, "notify": notify})))


def delete(job_id: str, notify: str) -> Steps[bool]:
    """Forget a job that is not running; answer whether there was one."""
    params = {"id": job_id, "notify": notify}
    # Twice: a job that was cancelled while the first look waited for its row is in history now,
    # where that look, older than the move, did not find it.
    return bool((yield from Query(DELETE, params)) or (yield from Query(DELETE, params)))


def reschedule(job_id: str, due: datetime | float | None, notify: str) -> Steps[bool]:
    """Move a waiting job to another moment; answer whether there was one."""
    params = {"id": job_id, "notify": notify, **rows.due(due)}
    return bool((yield from Query(RESCHEDULE, params)))


def retry(job_id: str, notify: str) -> Steps[str]:
    """Run a job now: a waiting one as it is, an ended one as a new job; answer the id that runs.

    Raises:
        JobNotFound: There is none.
        InvalidTransition: It is queued or running already.
    """
    from .dead_letters import replay

    if (yield from Query(RUN_NOW, {"id": job_id, "notify": notify})):
        return job_id
    job = yield from get(job_id)
    if job.status is JobStatus.DEAD_LETTER:
        return (yield from replay(job_id, notify))
    if not job.status.ended:
        raise InvalidTransition(f"Job {job_id} is {job.status} already; there is nothing to retry.")
    params = {"id": job_id, "new_id": new_id(), "notify": notify}
    made = yield from Query(COPY_OF_PAST, params, text)
    if not made:  # pruned since we looked
        raise _no_job(job_id)
    return made[0]
