"""Jobs with limits, against the unlimited drain of the same run; and what fair turns are worth."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, LiteralString

from .drain import done_rate
from .process import Program
from .report import Row, interleave, most, paired, percentile, share
from .server import Target
from .tasks import application, limited

JOBS = 20_000
KEYS = 1000
BLOCKED = 100_000
DEEP = 100_000
FEW = 40

# One of them runs, with a worker that is said to live, so that nobody rescues it.
BLOCK: LiteralString = """
    WITH busy AS (
        INSERT INTO soniq.workers (id, name, concurrency, version, seen_at)
        VALUES (gen_random_uuid(), 'busy', 1, '0', now() + interval '1 hour') RETURNING id)
    INSERT INTO soniq.jobs (id, task, state, gate, worker_id, scheduled_at)
    SELECT soniq.uuid7(), 'one_a_key', CASE WHEN n = 0 THEN 'processing' ELSE 'queued' END,
        'kslow', CASE WHEN n = 0 THEN busy.id END, now() - interval '1 hour'
    FROM busy, generate_series(0, %s) AS n"""


def run(target: Target) -> list[Row]:
    """Measure drains of jobs with each limit, of others beside a blocked key, and fair turns."""
    jobs, keys = target.size(JOBS), target.size(KEYS)
    free = partial(_rate, target, "noop", jobs, keys)
    rows = []
    for what, task, goals in (
        (f"{keys:,} keys of limit 1", "one_a_key", (share(0.5),)),
        (f"{keys:,} keys in order", "in_order", (share(0.5),)),
        (f"{keys:,} keys in fair turns", "in_turn", ()),
        ("limit 1,000 of the task", "thousand", ()),
        ("a rate that is never reached", "rated", ()),
    ):
        pairs = interleave(target.repeats, partial(_rate, target, task, jobs, keys), free)
        rows.append(paired(f"drain {jobs:,}, {what}", "jobs/s", pairs, goals))
    for task, which in (("noop", "without limits"), ("one_a_key", "of other keys")):
        beside = partial(_rate, target, task, jobs, keys, blocked=target.size(BLOCKED))
        pairs = interleave(target.repeats, beside, partial(_rate, target, task, jobs, keys))
        what = f"drain {jobs:,} {which}, beside {target.size(BLOCKED):,} of a blocked key"
        rows.append(paired(what, "jobs/s", pairs, (share(0.9),)))
    waits = _turns(target)
    what = f"one job beside {target.size(DEEP):,} of another tenant"
    rows.append(Row(f"{what}, p50", "ms", percentile(waits, 0.5)))
    rows.append(Row(f"{what}, p99", "ms", percentile(waits, 0.99), goals=(most(250),)))
    return rows


def _rate(target: Target, task: str, jobs: int, keys: int, *, blocked: int = 0) -> float:
    _load(target, task, [n % keys for n in range(jobs)])
    if blocked:
        with target.connect() as connection:
            connection.execute(BLOCK, (blocked,))
            connection.execute("VACUUM ANALYZE soniq.jobs")
    with Program("worker_process", target.url, "--jobs", str(jobs), *_options(task)) as worker:
        worker.ended()
    return done_rate(target, jobs)


def _load(target: Target, task: str, numbers: list[int]) -> None:
    target.empty()
    app = application(target.url)
    tasks = {"noop": app.noop, **limited(app.eq)}
    with app.eq.sync as eq:
        eq.enqueue_many(tasks[task], [{"i": n} for n in numbers])
    with target.connect() as connection:
        connection.execute("VACUUM ANALYZE soniq.jobs")


def _options(task: str) -> list[str]:
    return [] if task == "noop" else ["--limits"]


def _turns(target: Target) -> list[float]:
    """Give the milliseconds from the enqueue of each of a few jobs to its start."""
    _load(target, "in_turn", [0] * target.size(DEEP))
    app = application(target.url)
    task = limited(app.eq)["in_turn"]
    waits = []
    with app.eq.sync as eq, Program("worker_process", target.url, "--limits") as worker:
        for n in range(1 + target.size(FEW)):
            job: Any = eq.wait(eq.enqueue(task, i=n + 1), timeout=60)
            waits.append((job.started_at - job.created_at).total_seconds() * 1000)
            time.sleep(0.02)
        worker.stop()
    return waits[1:]
