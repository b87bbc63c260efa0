"""How the rate holds with a million jobs queued, or scheduled for later, against 20,000."""

from __future__ import annotations

import contextlib
from functools import partial

import psycopg

from . import ceiling
from .drain import done_rate
from .process import Program
from .report import Row, interleave, paired, share
from .server import Target

FEW = 20_000
MANY = 1_000_000
GOALS = (share(0.95),)


def run(target: Target) -> list[Row]:
    """Measure each beside the same number of jobs with nothing else in the table."""
    few, many = target.size(FEW), target.size(MANY)
    queued, scheduled = target.another("soniq_queued"), target.another("soniq_scheduled")
    _fill(queued, many, later=False)
    _fill(scheduled, many, later=True)
    alone = partial(_rate, target, few)
    rows = []
    for what, deep, added in (("queued", queued, 0), ("scheduled", scheduled, few)):
        pairs = interleave(target.repeats, partial(_rate, deep, few, added), alone)
        rows.append(paired(f"drain {few:,} with {many:,} {what}", "jobs/s", pairs, GOALS))
    return rows


def _fill(target: Target, count: int, *, later: bool) -> None:
    with target.connect() as connection:
        ceiling.copy(connection, f"{target.schema}.jobs", "noop", ({"i": i} for i in range(count)))
        if later:
            connection.execute(
                f"""UPDATE {target.schema}.jobs
                    SET state = 'scheduled', scheduled_at = now() + interval '1 day'""".encode()
            )
        connection.execute(f"VACUUM ANALYZE {target.schema}.jobs".encode())


def _rate(target: Target, jobs: int, added: int | None = None) -> float:
    """Run so many jobs of what is there; first add some, or begin with just so many."""
    with target.connect() as connection:
        connection.execute(f"TRUNCATE {target.schema}.history".encode())
        if added is None:
            connection.execute(f"TRUNCATE {target.schema}.jobs".encode())
        calls = ({"i": i} for i in range(jobs if added is None else added))
        ceiling.copy(connection, f"{target.schema}.jobs", "noop", calls)
        connection.execute(f"ANALYZE {target.schema}.jobs".encode())
        # The server still has the million rows of the filling to write, and would during the run.
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            connection.execute("CHECKPOINT")
    options = ["--schema", target.schema, "--jobs", str(jobs)]
    with Program("worker_process", target.url, *options) as worker:
        worker.ended()
    return done_rate(target, jobs)
