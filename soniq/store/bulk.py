"""Many jobs at once: by one statement, or by COPY."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import TypeAlias

from ..job.record import NewJob, Placement
from ..job.unique import Enqueued
from ..steps import Atomic, CopyIn, Query, Steps
from . import channel, keys, rows

# One statement for any number of jobs, and few parameters, so that every host can run it.
INSERT_MANY = """
    WITH given AS (
        SELECT r.*, coalesce(
            r.moment, statement_timestamp() + make_interval(secs => r.delay),
            statement_timestamp()) AS due
        FROM jsonb_to_recordset(CAST(CAST(%(jobs)s AS text) AS jsonb)) AS r(
            id uuid, task text, queue text, args jsonb, priority smallint, moment timestamptz,
            delay double precision, max_attempts integer, timeout double precision, tags text[],
            trace jsonb, gate text)),
    job AS (
        INSERT INTO {soniq}.jobs (id, task, queue, args, state, priority, scheduled_at,
                                  max_attempts, timeout_seconds, tags, trace, gate)
        SELECT id, task, queue, args,
               CASE WHEN due > statement_timestamp() THEN 'scheduled' ELSE 'queued' END,
               priority, due, max_attempts, timeout, tags, trace, gate
        FROM given
        RETURNING queue, state, scheduled_at),
    told AS (
        SELECT CASE WHEN count(DISTINCT queue) = 1 AND bool_and(state = 'queued')
                    THEN min(queue) ELSE '*' END AS queue
        FROM job
        WHERE scheduled_at < statement_timestamp() + interval '6 seconds'
        HAVING count(*) > 0)
    SELECT CAST({soniq}.wake(queue, CAST(%(notify)s AS text)) AS text) FROM told"""

# The lines are UTF-8, whatever encoding the connection has.
COPY = """
    COPY {soniq}.jobs (id, args, task, queue, state, priority, scheduled_at, created_at,
                       max_attempts, timeout_seconds, tags, trace, gate) FROM STDIN
    (ENCODING 'UTF8')"""

# Most bulks ask for nothing special: what is left out here costs no parsing.
COPY_PLAIN = """
    COPY {soniq}.jobs (id, args, task, queue, priority, max_attempts) FROM STDIN
    (ENCODING 'UTF8')"""

NOW = "SELECT extract(epoch FROM clock_timestamp())"


# From here a bulk goes by COPY: below it one statement was as quick (benchmarks/bulk.py).
COPY_FROM = 500
# Rows of one statement where there is no COPY; a jsonb array has a limit of 256 MB.
MOST_ROWS = 10_000
# Lines in a message of COPY: the server works on one while the next is written.
LINES = 2000

Note: TypeAlias = Callable[[Sequence[str]], object]


def enqueue_many(
    first: Sequence[NewJob], more: Iterable[NewJob], notify: str, *, can_copy: bool = False
) -> Steps[Enqueued]:
    """Store jobs, all or none; answer their ids in the order given.

    Args:
        first: At least `COPY_FROM` of them, or all.
        more: The others, made one by one while the ones before are sent. Making one may raise:
            then none is stored. They are placed as some of the first.
        notify: `auto`, `always` or `off`.
        can_copy: Whether the connection speaks COPY.

    Raises:
        DuplicateJob: The key of one is held, and it asks for an error then.
    """
    if _some_have_keys(first):
        return (yield from keys.enqueue_many([*first, *more], notify))
    ids = Enqueued()
    yield from _store(first, more, notify, can_copy, ids.extend)
    return ids


def enqueue_stream(
    first: Sequence[NewJob],
    more: Iterable[NewJob],
    notify: str,
    *,
    can_copy: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Steps[int]:
    """Store jobs as `enqueue_many` does, and remember none of them; answer how many are new.

    Args:
        first: At least `COPY_FROM` of them, or all.
        more: The others.
        notify: `auto`, `always` or `off`.
        can_copy: Whether the connection speaks COPY.
        progress: Called now and then with the number sent so far.

    Raises:
        DuplicateJob: The key of one is held, and it asks for an error then.
    """
    number = 0

    def note(ids: Sequence[str]) -> None:
        nonlocal number
        number += len(ids)
        if progress is not None:
            progress(number)

    if _some_have_keys(first):
        made = yield from keys.enqueue_many([*first, *more], notify)
        note(made)
        return made.outcomes.count("enqueued")
    yield from _store(first, more, notify, can_copy, note)
    return number


def _some_have_keys(jobs: Iterable[NewJob]) -> bool:
    return any(job.placement.unique is not None for job in jobs)


def _store(
    first: Sequence[NewJob], more: Iterable[NewJob], notify: str, can_copy: bool, note: Note
) -> Steps[None]:
    if can_copy and len(first) >= COPY_FROM:
        yield from Atomic(_copy(first, more, notify, note))
        return
    # All are made before the first is sent: what they are sent in may be the caller's transaction,
    # which is not ours to roll back.
    jobs = [*first, *more]
    if len(jobs) <= MOST_ROWS:
        yield from _insert(jobs, notify, note)
    else:
        yield from Atomic(_insert(jobs, notify, note))


def _insert(jobs: Sequence[NewJob], notify: str, note: Note) -> Steps[None]:
    for start in range(0, len(jobs), MOST_ROWS):
        part = jobs[start : start + MOST_ROWS]
        lines = ",".join(map(rows.line, part))
        yield from Query(INSERT_MANY, {"jobs": f"[{lines}]", "notify": notify})
        note([job.id for job in part])


def _copy(first: Sequence[NewJob], more: Iterable[NewJob], notify: str, note: Note) -> Steps[None]:
    placements = {id(job.placement): job.placement for job in first}.values()
    jobs = chain(first, more)
    if all(placement.plain for placement in placements):
        yield from CopyIn(COPY_PLAIN, _lines(jobs, _plain_columns, note))
        queues = {placement.queue for placement in placements}
        queue = queues.pop() if len(queues) == 1 else "*"
        yield from channel.wake(notify, queue)
    else:
        yield from _copy_placed(jobs, placements, notify, note)


def _copy_placed(
    jobs: Iterable[NewJob], placements: Iterable[Placement], notify: str, note: Note
) -> Steps[None]:
    (seconds,) = yield from Query(NOW, decode=lambda row: float(row[0]))
    now = datetime.fromtimestamp(seconds, UTC)
    yield from CopyIn(COPY, _lines(jobs, lambda placement: _columns(placement, now), note))
    soon = now + timedelta(seconds=channel.SOON_SECONDS)
    told = {
        each.queue if moment is None or moment <= now else "*"
        for each in placements
        if (moment := _moment(each, now)) is None or moment < soon
    }
    if told:
        queue = told.pop() if len(told) == 1 else "*"
        yield from channel.wake(notify, queue)


def _moment(placement: Placement, now: datetime) -> datetime | None:
    due = placement.due
    return now + timedelta(seconds=due) if isinstance(due, int | float) else due


def _lines(
    jobs: Iterable[NewJob], columns: Callable[[Placement], Sequence[str | None]], note: Note
) -> Iterator[bytes]:
    """Write COPY lines, some thousands at a time; the columns of a placement once."""
    jobs = iter(jobs)
    placement, common = None, ""
    while part := list(islice(jobs, LINES)):
        lines: list[str] = []
        for job_id, args, placed in part:
            if placed is not placement:
                placement, common = placed, _tabbed(columns(placed))
            # JSON text holds no tab or line end of its own.
            escaped = args.replace("\\", "\\\\")
            lines.append(f"{job_id}\t{escaped}\t{common}")
        yield "".join(lines).encode()
        note([job.id for job in part])


def _tabbed(fields: Iterable[str | None]) -> str:
    return "\t".join("\\N" if f is None else f.translate(_ESCAPES) for f in fields) + "\n"


def _plain_columns(placement: Placement) -> Sequence[str | None]:
    priority, attempts = str(placement.priority), str(placement.max_attempts)
    return placement.task, placement.queue, priority, attempts


def _columns(placement: Placement, now: datetime) -> Sequence[str | None]:
    """Write what all jobs of one placement share; `now` is the server's."""
    due = _moment(placement, now)
    return (
        placement.task,
        placement.queue,
        "scheduled" if due is not None and due > now else "queued",
        str(placement.priority),
        (now if due is None else due).isoformat(),
        now.isoformat(),
        str(placement.max_attempts),
        None if placement.timeout is None else repr(placement.timeout),
        None if placement.tags is None else _array(placement.tags),
        placement.trace,
        placement.gate,
    )


# Source: "COPY", Text Format, PostgreSQL documentation.
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _array(words: Iterable[str]) -> str:
    quoted = (word.replace("\\", "\\\\").replace('"', '\\"') for word in words)
    return "{" + ",".join(f'"{word}"' for word in quoted) + "}"
