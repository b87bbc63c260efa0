"""Whether a worker grows while it works, and what large payloads make of it.

`--seconds 3600` watches for an hour.
"""

from __future__ import annotations

from . import ceiling
from .process import Program
from .report import Row, most
from .server import Target
from .steady import RATE, stream

SECONDS = 60.0
LARGE = 400
LARGE_BYTES = 1024 * 1024 - 64


def run(target: Target) -> list[Row]:
    """Measure both."""
    return [_growth(target), _large(target)]


def _growth(target: Target) -> Row:
    target.empty()
    seconds = target.during(SECONDS)
    usages = stream(target, seconds).usages
    # After a third of the time, at most a minute, it has all that it needs.
    settled = usages[min(len(usages) // 3, 60)]
    grown = usages[-1]["rss"] - settled["rss"]
    return Row(f"memory grown in {seconds:g} s at {RATE:,} jobs/s", "MB", grown, goals=(most(1),))


def _large(target: Target) -> Row:
    """Give the most that a worker had while it ran jobs of nearly 1 MiB each."""
    target.empty()
    jobs = target.size(LARGE)
    with target.connect() as connection:
        calls = ({"i": "x" * LARGE_BYTES} for _ in range(jobs))
        ceiling.copy(connection, "soniq.jobs", "noop", calls)
    with Program("worker_process", target.url, "--jobs", str(jobs)) as worker:
        peak = worker.ended()["rss"]
    target.empty()
    return Row(f"memory at most, {jobs} jobs of 1 MiB", "MB", peak, goals=(most(200),))
