"""How near to its moment a schedule's job is made, and what ten thousand schedules cost."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

from soniq.db.sync import Database
from soniq.settings import load
from soniq.store import due

from .drain import done_rate
from .pickup import Stamps
from .process import Program
from .report import Row, interleave, least, most, paired, percentile, share, times
from .server import Target

SCHEDULES = 10_000
MOMENTS = 200
LOOKS = 500
JOBS = 20_000

# One moment each, at a pace of 25 a second, the first in two seconds; none for the rest of the run.
MOMENTS_TO_COME = """
    INSERT INTO soniq.schedules (name, task, args, every_seconds, moment, next_run)
    SELECT 'late' || n, 'stamp', jsonb_build_object('i', n), 86400, at, at
    FROM generate_series(0, %s) AS n,
         LATERAL (SELECT clock_timestamp() + (2 + n * 0.04) * interval '1 second' AS at) AS given"""

MANY = """
    INSERT INTO soniq.schedules (name, task, args, every_seconds, moment, next_run)
    SELECT 'many' || n, 'noop', '{"i": 1}', 86400, at, at
    FROM generate_series(1, %s) AS n, LATERAL (
        SELECT now() + %s * interval '1 second' + n * interval '1 ms' AS at) AS given"""

LATE = """
    SELECT 1000 * extract(epoch FROM created_at - scheduled_at) FROM soniq.history
    WHERE task = 'stamp'"""


def run(target: Target) -> list[Row]:
    """Measure; the drain is beside one whose worker leaves schedules alone."""
    many = target.size(SCHEDULES)
    made, started = _lateness(target, target.size(MOMENTS))
    looks = interleave(target.repeats, partial(_look, target, many), partial(_look, target, 10))
    beside, alone = partial(_drain, target, many, "yes"), partial(_drain, target, 0, "no")
    drains = interleave(target.repeats, beside, alone)
    rows = [
        Row(f"schedule, job made late, p50 of {len(made)}", "ms", percentile(made, 0.5)),
        Row("schedule, job made late, p95", "ms", percentile(made, 0.95), goals=(most(50),)),
        Row("schedule, job made early at most", "ms", max(0.0, -min(made))),
        Row("schedule, handler started late, p95", "ms", percentile(started, 0.95)),
        paired(f"look at {many:,} schedules, against 10", "ms", looks, (times(1.5),)),
        Row(
            f"fire {many:,} that are due at once",
            "jobs/s",
            _fire(target, many),
            goals=(least(500),),
        ),
        paired(f"drain beside {many:,} schedules, against none", "jobs/s", drains, (share(0.95),)),
    ]
    _empty(target)
    return rows


def _empty(target: Target) -> None:
    target.empty()
    with target.connect() as connection:
        connection.execute("TRUNCATE soniq.schedules")


def _lateness(target: Target, moments: int) -> tuple[list[float], list[float]]:
    """Give the milliseconds from each moment to its job, and to its handler."""
    _empty(target)
    with tempfile.TemporaryDirectory() as folder:
        stamps = Stamps(Path(folder, "stamps"))
        with (
            Program("worker_process", target.url, env=stamps.env) as worker,
            target.connect() as connection,
        ):
            time.sleep(0.5)  # the worker goes idle
            connection.execute(MOMENTS_TO_COME, (moments - 1,))
            connection.execute("SELECT pg_notify('soniq', 's:')")
            started = stamps.wait(moments, 20 + moments * 0.04)
            worker.stop()
            made = [float(late) for (late,) in connection.execute(LATE)]
            due_at = dict(
                connection.execute(
                    "SELECT CAST(args ->> 'i' AS int), 1e9 * extract(epoch FROM scheduled_at)"
                    " FROM soniq.history WHERE task = 'stamp'"
                ).fetchall()
            )
    return made, [(at - float(due_at[i])) / 1e6 for i, at in started.items()]


def _database(target: Target) -> Database:
    return Database(load({"database_url": target.url}), url=lambda: target.url)


def _look(target: Target, schedules: int) -> float:
    """Give the milliseconds of a look while nothing is due."""
    _empty(target)
    with target.connect() as connection:
        connection.execute(MANY, (schedules, 86_400))
        connection.execute("VACUUM ANALYZE soniq.schedules")
    database, taken = _database(target), []
    for _ in range(target.size(LOOKS)):
        began = time.perf_counter()
        database.run(due.tick, "auto")
        taken.append(time.perf_counter() - began)
    database.close()
    return median(taken) * 1000


def _fire(target: Target, schedules: int) -> float:
    _empty(target)
    with target.connect() as connection:
        connection.execute(MANY, (schedules, -3600))
        connection.execute("VACUUM ANALYZE soniq.schedules")
    database, fired = _database(target), 0
    began = time.perf_counter()
    while fired < schedules:
        fired += len(database.run(due.tick, "auto").fired)
    rate = schedules / (time.perf_counter() - began)
    database.close()
    return rate


def _drain(target: Target, schedules: int, scheduler: str) -> float:
    _empty(target)
    jobs = target.size(JOBS)
    target.load("soniq.jobs", "noop", jobs)
    with target.connect() as connection:
        if schedules:
            connection.execute(MANY, (schedules, 86_400))
        connection.execute("VACUUM ANALYZE soniq.jobs, soniq.schedules")
    environ = {"SONIQ_SCHEDULER": scheduler}
    with Program("worker_process", target.url, "--jobs", str(jobs), env=environ) as worker:
        worker.ended()
    return done_rate(target, jobs)
