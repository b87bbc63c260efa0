"""What middleware costs: a drain of no-op jobs with one, against the drain without."""

from __future__ import annotations

from statistics import median

from .drain import figures_of
from .report import Row, interleave, most, paired
from .server import Target

JOBS = 20_000
SYNC, ASYNC = ("sync in threads", "noop_sync"), ("async", "noop")
# What a job may cost more, in microseconds.
MOST = most(25)


def run(target: Target) -> list[Row]:
    """Measure one of each kind, and what Django's integration puts around jobs."""
    return [
        *_measure(target, *SYNC, "one `def` middleware", "sync"),
        *_measure(target, *SYNC, "Django's connections", "django"),
        *_measure(target, *ASYNC, "one `async def` middleware", "async"),
    ]


def _measure(target: Target, which: str, task: str, what: str, around: str) -> list[Row]:
    jobs = target.size(JOBS)
    cpu: dict[str, list[float]] = {around: [], "": []}

    def drain(around: str) -> float:
        figures = figures_of(target, task, jobs, ["--around", around] if around else [])
        cpu[around].append(figures["cpu"])
        return figures["rate"]

    pairs = interleave(target.repeats, lambda: drain(around), lambda: drain(""))
    more = [a - b for a, b in zip(cpu[around], cpu[""], strict=True)]
    return [
        paired(f"drain {jobs:,}, {which}, {what}", "jobs/s", pairs),
        Row(
            f"  worker CPU a job more, {which}, {what}", "us", max(0.0, median(more)), goals=(MOST,)
        ),
    ]
