"""Enqueueing 50,000 in one call, against a bare COPY of the same rows."""

from __future__ import annotations

import time

from . import ceiling
from .report import Row, interleave, paired, ratio
from .server import Target
from .tasks import application

JOBS = 50_000


def run(target: Target) -> list[Row]:
    """Measure with the sync client; the async one does the same work."""
    app = application(target.url)
    calls: list[dict[str, object]] = [{"i": i} for i in range(target.size(JOBS))]
    with app.eq.sync as eq, target.connect() as connection:

        def ours() -> float:
            target.empty()
            began = time.perf_counter()
            eq.enqueue_many(app.noop, calls)
            return len(calls) / (time.perf_counter() - began)

        def bare() -> float:
            target.empty()
            began = time.perf_counter()
            ceiling.copy(connection, "bare.jobs", "noop", calls)
            return len(calls) / (time.perf_counter() - began)

        pairs = interleave(target.repeats, ours, bare)
    return [paired(f"bulk {len(calls):,}", "rows/s", pairs, ratio(A=0.6, B=0.8))]
