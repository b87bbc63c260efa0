"""Jobs with keys: one job stands for all of its key; and keys that nobody holds are pruned.

Who holds a key is decided in the database (the migration 0003_pre_keys), by one statement for any
number of jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import DatabaseError, UsageError
from ..job.codec import decode, encode
from ..job.record import NewJob
from ..job.unique import Enqueued, Outcome, Unique
from ..steps import Atomic, Query, Steps
from . import keyed
from .keyed import Placed

PLACE = """
    SELECT place, CAST(job_id AS text), outcome, CAST(old_args AS text)
    FROM {soniq}.enqueue_keyed(CAST(CAST(%(jobs)s AS text) AS jsonb), CAST(%(notify)s AS text))"""

# A row comes back only if the job was not stored as it is.
PLACE_ONE = """
    SELECT CAST(1 AS bigint), CAST(job_id AS text), outcome
    FROM {soniq}.enqueue_one(
        CAST(%(id)s AS uuid), CAST(%(task)s AS text), CAST(%(queue)s AS text),
        CAST(CAST(%(args)s AS text) AS jsonb), CAST(CAST(%(priority)s AS text) AS smallint),
        CAST(CAST(%(max_attempts)s AS text) AS integer), CAST(%(gate)s AS text),
        CAST(%(key)s AS text), CAST(CAST(%(rule)s AS text) AS jsonb), CAST(%(notify)s AS text))"""

# Most bulks are jobs of one kind: what they share is written once, and a row comes back only for
# what was not stored.
PLACE_ALIKE = """
    SELECT place, CAST(job_id AS text), outcome
    FROM {soniq}.enqueue_alike(CAST(CAST(%(common)s AS text) AS jsonb),
        CAST(CAST(%(jobs)s AS text) AS jsonb), CAST(%(notify)s AS text))"""

LOCK = """
    SELECT CAST({soniq}.lock_keys(CAST(CAST(%(jobs)s AS text) AS jsonb)) AS text)"""

PRUNE = """
    SELECT task, key, looked, gone
    FROM {soniq}.prune_keys(
        CAST(%(task)s AS text), CAST(%(key)s AS text), CAST(%(most)s AS integer))"""

# Keys that are looked at in one transaction; only those that look dead are locked.
PAGE = 1000


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
    elif (short := _short_way(jobs, notify)) is not None:
        return (yield from _but_for(jobs, short))
    else:
        placed = yield from _place(jobs, notify)
    return Enqueued([each.job_id for each in placed], [each.outcome for each in placed])


def prune(after: Pruned) -> Query[Pruned]:
    """Look at the next keys after a pruning, and forget those that nobody holds."""
    return Query(PRUNE, {"task": after.task, "key": after.key, "most": PAGE}, Pruned._make)


def _place(jobs: Sequence[NewJob], notify: str, *, ask: bool = False) -> Steps[list[Placed]]:
    params = {"jobs": keyed.written(jobs, ask=ask), "notify": notify}
    placed = yield from Query(PLACE, params, keyed.placed)
    for each in placed:
        keyed.check(each, jobs)
    return placed


def _short_way(jobs: Sequence[NewJob], notify: str) -> Query[Placed] | None:
    """Find the statement for what is usual, which tells of exceptions only; None if this is not."""
    if not jobs:
        return None
    first = jobs[0]
    if len(jobs) == 1:
        unique, plain = first.placement.unique, first.placement.plain_but_for_keys
        if unique is None or not plain:
            return None
        return Query(PLACE_ONE, {**keyed.texts(first, unique), "notify": notify}, keyed.placed)
    if (rule := keyed.rule_of_all(jobs)) is None:
        return None
    shared, own = keyed.common(first, rule), keyed.written_short(jobs)
    return Query(PLACE_ALIKE, {"common": shared, "jobs": own, "notify": notify}, keyed.placed)


def _but_for(jobs: Sequence[NewJob], exceptions: Query[Placed]) -> Steps[Enqueued]:
    """Store jobs as they are, but for those that the statement tells of."""
    ids: list[str] = [job.id for job in jobs]
    outcomes: list[Outcome] = ["enqueued"] * len(jobs)
    for each in (yield from exceptions):
        keyed.check(each, jobs)
        ids[each.place - 1], outcomes[each.place - 1] = each.job_id, each.outcome
    return Enqueued(ids, outcomes)


def _merge_each(jobs: Sequence[NewJob], notify: str) -> Steps[list[Placed]]:
    """Place jobs one by one: what a function of the caller's makes of one, the next may meet."""
    if len(jobs) == 1:
        return (yield from _merge_in_turn(jobs, notify))
    yield from Query(LOCK, {"jobs": keyed.written(jobs)})
    # The transaction may be the caller's, who may go on after an error: then none was stored.
    yield from Query("SAVEPOINT soniq_merge")
    try:
        placed = yield from _merge_in_turn(jobs, notify)
    except DatabaseError:  # the transaction is aborted
        raise
    except Exception:  # whatever the function raises among them
        yield from Query("ROLLBACK TO SAVEPOINT soniq_merge")
        yield from Query("RELEASE SAVEPOINT soniq_merge")
        raise
    yield from Query("RELEASE SAVEPOINT soniq_merge")
    return placed


def _merge_in_turn(jobs: Sequence[NewJob], notify: str) -> Steps[list[Placed]]:
    placed = []
    for place, job in enumerate(jobs):
        try:
            placed.append((yield from _merge_one(job, notify)))
        except UsageError as error:
            if len(jobs) > 1:
                error.args = (f"Job {place} of the list: {error}", *error.args[1:])
            raise
    return placed


def _merge_one(job: NewJob, notify: str) -> Steps[Placed]:
    (one,) = yield from _place((job,), notify, ask=_mergers(job))
    unique = job.placement.unique
    if unique is not None and one.old_args is not None:
        # Its row is locked: it neither begins nor ends before this is done.
        (one,) = yield from _place((_merged(job, unique, one.old_args),), notify)
    return one


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
