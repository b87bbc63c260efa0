"""Running 20,000 no-op jobs in one worker process, against the bare claim-and-delete loop.

Soniq keeps history; the ceiling deletes. Both are programs of their own that find the jobs there.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from .process import Program
from .report import Goal, Row, interleave, least, most, paired, share
from .server import Target, counted

JOBS = 20_000
SHARE = share(0.7)
CPU = most(30)


def run(target: Target) -> list[Row]:
    """Measure async jobs with the extra `speed` and without, and sync ones; count statements."""
    return [
        *_measure(target, "async", "noop", "drain", [], (SHARE, least(30_000)), (CPU,)),
        *_measure(target, "async, no extras", "noop", "drain", ["--plain"], (SHARE, least(22_000))),
        *_measure(target, "sync in threads", "noop_sync", "threads", [], (SHARE,)),
        *_count(target),
    ]


def _measure(
    target: Target,
    what: str,
    task: str,
    bare: str,
    options: list[str],
    goals: tuple[Goal, ...],
    of_cpu: tuple[Goal, ...] = (),
) -> list[Row]:
    jobs = target.size(JOBS)
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []

    def drain() -> float:
        ours.append(figures_of(target, task, jobs, options))
        return ours[-1]["rate"]

    def drain_bare() -> float:
        theirs.append(_drain_bare(target, task, bare, jobs, options))
        return theirs[-1]["rate"]

    pairs = interleave(target.repeats, drain, drain_bare)
    cpu = [(a["cpu"], b["cpu"]) for a, b in zip(ours, theirs, strict=True)]
    memory, memory_bare = (median(each["rss"] for each in side) for side in (ours, theirs))
    return [
        paired(f"drain {jobs:,}, {what}", "jobs/s", pairs, goals),
        paired(f"  worker CPU a job, {what}", "us", cpu, of_cpu),
        Row(f"  peak memory, {what}", "MB", memory, memory_bare),
    ]


def figures_of(target: Target, task: str, jobs: int, options: list[str]) -> dict[str, float]:
    """Have a worker run jobs; answer jobs a second, microseconds of CPU a job, and megabytes."""
    target.load("soniq.jobs", task, jobs)
    with Program("worker_process", target.url, "--jobs", str(jobs), *options) as worker:
        before, after = worker.ready, worker.ended()
    return _figures(jobs, jobs / done_rate(target, jobs), before, after)


def done_rate(target: Target, jobs: int) -> float:
    """Read how many jobs a second were done, of at least so many.

    From the first claim to the last ending, by the server: without start and end of the worker,
    which the bare loop does not have.
    """
    with target.connect() as connection:
        row = connection.execute(
            f"""SELECT count(*), extract(epoch FROM max(finished_at) - min(started_at))
                FROM {target.schema}.history WHERE state = 'done'""".encode()
        ).fetchone()
    if row is None or row[0] < jobs:
        raise RuntimeError(f"{row and row[0]} of {jobs} jobs are done")
    return float(row[0]) / max(float(row[1]), 1e-6)


def _drain_bare(
    target: Target, task: str, what: str, jobs: int, options: list[str]
) -> dict[str, float]:
    target.load("bare.jobs", task, jobs)
    with Program("bare_worker", what, target.url, "--jobs", str(jobs), *options) as worker:
        before, after = worker.ready, worker.ended()
    return _figures(jobs, after["at"] - before["at"], before, after)


def _figures(
    jobs: int, seconds: float, before: dict[str, Any], after: dict[str, Any]
) -> dict[str, float]:
    cpu = (after["cpu"] - before["cpu"]) / jobs * 1e6
    return {"rate": jobs / max(seconds, 1e-6), "cpu": cpu, "rss": after["rss"]}


def _count(target: Target) -> list[Row]:
    """Count in a run of its own, because counting takes time."""
    jobs = target.size(JOBS)
    target.load("soniq.jobs", "noop", jobs)

    def drain() -> None:
        with Program("worker_process", target.url, "--jobs", str(jobs)) as worker:
            worker.ended()

    counts = counted(target.url, drain)
    trips = counts.transactions if counts.statements is None else counts.statements
    kind = "transactions" if counts.statements is None else "statements"
    return [
        Row(f"  {kind} per 100 jobs", "", trips * 100 / jobs, goals=(most(3),)),
        Row("  writes a job, live jobs", "", counts.writes / jobs, goals=(most(2.02),)),
        Row("  writes a job, with history", "", counts.all_writes / jobs),
    ]
