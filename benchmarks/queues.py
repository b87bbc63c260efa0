"""A thousand queues served by one worker, and a shallow queue beside a deep one."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

from .drain import done_rate
from .pickup import Stamps
from .process import Program
from .report import Row, interleave, paired, percentile, share, times
from .server import Target
from .tasks import application

JOBS = 20_000
QUEUES = 1000
DEEP = 200_000
SHALLOW = 200
EVERY_SECONDS = 0.02


def run(target: Target) -> list[Row]:
    """Measure the rate over many queues, and how soon a shallow queue's jobs start."""
    jobs, queues = target.size(JOBS), target.size(QUEUES)
    many, one = partial(_rate, target, jobs, queues), partial(_rate, target, jobs, 1)
    pairs = interleave(target.repeats, many, one)
    beside, alone = _shallow(target, deep=True), _shallow(target, deep=False)
    return [
        paired(
            f"drain {jobs:,} from {queues:,} queues, against one", "jobs/s", pairs, (share(0.8),)
        ),
        *(
            Row(
                f"pickup p{part * 100:g}, shallow beside deep, against alone",
                "ms",
                percentile(beside, part),
                percentile(alone, part),
                goals,
            )
            for part, goals in ((0.5, ()), (0.99, (times(3),)))
        ),
    ]


def _rate(target: Target, jobs: int, queues: int) -> float:
    target.load("soniq.jobs", "noop", jobs)
    with target.connect() as connection:
        if queues > 1:
            spread = "UPDATE soniq.jobs SET queue = 'queue-' || CAST(args ->> 'i' AS int) %% %s"
            connection.execute(spread, (queues,))
        connection.execute("VACUUM ANALYZE soniq.jobs")
    with Program("worker_process", target.url, "--jobs", str(jobs)) as worker:
        worker.ended()
    return done_rate(target, jobs)


def _shallow(target: Target, *, deep: bool) -> list[float]:
    """Give the milliseconds from each enqueue's return to its job's start."""
    target.empty()
    if deep:
        target.load("soniq.jobs", "noop", target.size(DEEP))
    app = application(target.url)
    sent: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as folder, app.eq.sync as eq:
        stamps = Stamps(Path(folder, "stamps"))
        eq.enqueue(app.stamp.options(queue="shallow"), i=-1)  # opens the pool
        with Program("worker_process", target.url, env=stamps.env) as worker:
            stamps.wait(1)
            for i in range(target.size(SHALLOW)):
                eq.enqueue(app.stamp.options(queue="shallow"), i=i)
                sent[i] = time.time_ns()
                time.sleep(EVERY_SECONDS)
            started = stamps.wait(1 + len(sent))
            worker.stop()
    return [(started[i] - at) / 1e6 for i, at in sent.items()]
