"""What ended well enough: upkeep of history's partitions and of what is kept for a while."""

from __future__ import annotations

from ..steps import Batch, Query, Steps

# Waiting long for a partition's lock would make every completion wait behind us: try again later.
IMPATIENT = "SELECT set_config('lock_timeout', '2s', true)"

TEND = """
    SELECT {soniq}.tend_history(make_interval(secs => CAST(%(keep)s AS double precision)))"""

PRUNE_DEAD = """
    DELETE FROM {soniq}.dead_letters WHERE id = ANY (ARRAY (
        SELECT id FROM {soniq}.dead_letters
        WHERE died_at < statement_timestamp()
            - make_interval(secs => CAST(%(keep)s AS double precision))
        ORDER BY died_at LIMIT 1000 FOR UPDATE SKIP LOCKED))
    RETURNING id"""


def tend(keep_seconds: float) -> Steps[int]:
    """Make partitions ahead and drop old ones; answer how many were dropped."""
    tending = Query(TEND, {"keep": keep_seconds}, lambda row: int(row[0]))
    (_, (dropped,)) = yield from Batch((Query(IMPATIENT), tending))
    return int(dropped)


def prune_dead_letters(keep_seconds: float) -> Query[None]:
    """Forget up to a thousand dead letters older than that."""
    return Query(PRUNE_DEAD, {"keep": keep_seconds})
