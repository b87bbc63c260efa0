"""Jobs with keys: one job stands for all of its key; and keys that nobody holds are pruned.

Who holds a key is decided in the database (the migration 0003_pre_keys), by one statement for any
number of jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..errors import DuplicateJob, PayloadTooLarge
from ..job.codec import decode, encode
from ..job.record import NewJob
from ..job.unique import Enqueued, Unique
from ..steps import Atomic, Query, Steps
from . import rows

PLACE = """
    SELECT place, CAST(job_id AS text), outcome, CAST(old_args AS text)
    FROM {soniq}.enqueue_keyed(CAST(CAST(%(jobs)s AS text) AS jsonb), CAST(%(notify)s AS text))"""

LOCK = """
    SELECT CAST({soniq}.lock_keys(CAST(CAST(%(jobs)s AS text) AS jsonb)) AS text)"""

PRUNE = """
    SELECT task, key, looked, gone
    FROM {soniq}.prune_keys(
        CAST(%(task)s AS text), CAST(%(key)s AS text), CAST(%(most)s AS integer))"""

# Keys that are looked at in one transaction; only those that look dead are locked.
PAGE = 1000

# Of all jobs of one statement, as text: jsonb takes several times as much, and has a limit.
MOST_BYTES = 64 * 1024 * 1024


class Placed(NamedTuple):
    """What became of one job; `old_args` when it is still to be merged with what stands."""

    place: int
    job_id: str
    outcome: Any
    old_args: str | None


class Pruned(NamedTuple):
    """How far a pruning came, and how many keys it looked at and forgot."""

    task: str
    key: str
    looked: int
    gone: int

    @property
    def is_last(self) -> bool:
        """Whether there were no more."""
        return self.looked < PAGE


START = Pruned("", "", PAGE, 0)


def enqueue(job: NewJob, notify: str) -> Steps[str]:
    """Store a job with a key; answer the id of the job that stands.

    Raises:
        DuplicateJob: Its key is held, and it asks for an error then.
        PayloadTooLarge: What it would be merged to is too large.
    """
    (job_id,) = yield from enqueue_many((job,), notify)
    return job_id


def enqueue_many(jobs: Sequence[NewJob], notify: str) -> Steps[Enqueued]:
    """Store jobs of which some have keys, all that can be or none.

    Raises:
        DuplicateJob: The key of one is held, and it asks for an error then.
        PayloadTooLarge: What one would be merged to is too large, or all are together.
    """
    if any(_mergers(job) for job in jobs):
        placed = yield from Atomic(_merge_each(jobs, notify))
    else:
        placed = yield from _place(jobs, notify)
    return Enqueued([each.job_id for each in placed], [each.outcome for each in placed])


def prune(after: Pruned) -> Query[Pruned]:
    """Look at the next keys after a pruning, and forget those that nobody holds."""
    return Query(PRUNE, {"task": after.task, "key": after.key, "most": PAGE}, Pruned._make)


def _place(jobs: Sequence[NewJob], notify: str, *, ask: bool = False) -> Steps[list[Placed]]:
    params = {"jobs": _written(jobs, ask=ask), "notify": notify}
    placed = yield from Query(PLACE, params, Placed._make)
    for each in placed:
        if each.outcome in {"held", "too_large"}:
            raise _refusal(each, jobs[each.place - 1], of_many=len(jobs) > 1)
    return placed


def _merge_each(jobs: Sequence[NewJob], notify: str) -> Steps[list[Placed]]:
    """Place jobs one by one: what a function of the caller's makes of one, the next may meet."""
    if len(jobs) > 1:
        yield from Query(LOCK, {"jobs": _written(jobs)})
    placed = []
    for job in jobs:
        (one,) = yield from _place((job,), notify, ask=_mergers(job))
        unique = job.placement.unique
        if unique is not None and one.old_args is not None:
            # Its row is locked: it neither begins nor ends before this is done.
            (one,) = yield from _place((_merged(job, unique, one.old_args),), notify)
        placed.append(one)
    return placed


def _merged(job: NewJob, unique: Unique, old_args: str) -> NewJob:
    old, new = decode(old_args), decode(job.args)
    for name, how in unique.merge:
        if callable(how) and name in old:
            new[name] = how(old[name], new[name]) if name in new else old[name]
    args = encode(new, limit=unique.limit, what="merged argument")
    return job._replace(args=args)


def _mergers(job: NewJob) -> bool:
    unique = job.placement.unique
    return unique is not None and any(callable(how) for _, how in unique.merge)


def _written(jobs: Iterable[NewJob], *, ask: bool = False) -> str:
    """Write jobs as a JSON array, each with its rule."""
    text = ",".join([_line(job, ask=ask) for job in jobs])
    if len(text) > MOST_BYTES:
        raise PayloadTooLarge(
            f"Jobs with keys are stored by one statement, and these take more than "
            f"{MOST_BYTES:,} bytes together. Store them in several parts."
        )
    return f"[{text}]"


def _line(job: NewJob, *, ask: bool) -> str:
    unique = job.placement.unique
    return rows.line(job) if unique is None else rows.line(job, unique=_rule(unique, ask=ask))


def _rule(unique: Unique, *, ask: bool) -> dict[str, Any]:
    rule: dict[str, Any] = {"states": unique.states, "conflict": unique.conflict}
    if unique.key is not None:
        rule["key"] = unique.key
    if unique.seconds is not None:
        rule["seconds"] = unique.seconds
    if ask:
        rule["ask"] = True
    elif merge := {name: how for name, how in unique.merge if not callable(how)}:
        rule |= {"merge": merge, "limit": unique.limit}
    return rule


def _refusal(placed: Placed, job: NewJob, *, of_many: bool) -> DuplicateJob | PayloadTooLarge:
    unique, task = job.placement.unique, job.placement.task
    where = f"Job {placed.place - 1} of the list: " if of_many else ""
    if placed.outcome == "too_large":
        limit = 0 if unique is None else unique.limit
        return PayloadTooLarge(
            f"{where}Merged with those of job {placed.job_id}, the arguments of {task} take more "
            f"than {limit:,} bytes. Merge less, or raise max_payload_bytes."
        )
    key = "these arguments" if unique is None or unique.key is None else f"the key {unique.key!r}"
    return DuplicateJob(
        f"{where}Job {placed.job_id} of {task} has {key} already. Leave this one out, or enqueue "
        "it with on_conflict='skip' or 'replace'.",
        job_id=placed.job_id,
    )
