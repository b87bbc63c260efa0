"""Enqueueing 50,000 in one call, against a bare COPY of the same rows."""

from __future__ import annotations

from . import ceiling
from .report import Row, share
from .server import Target
from .tasks import application
from .timing import compare

JOBS = 50_000


def run(target: Target) -> list[Row]:
    """Measure with the sync client; the async one does the same work."""
    app = application(target.url)
    calls: list[dict[str, object]] = [{"i": i} for i in range(target.size(JOBS))]
    with app.eq.sync as eq, target.connect() as connection:

        def ours() -> None:
            eq.enqueue_many(app.noop, calls)

        def bare() -> None:
            ceiling.copy(connection, "bare.jobs", "noop", calls)

        name, goals = f"bulk {len(calls):,}", (share(0.8),)
        target.empty()
        return compare(name, target.repeats, ours, bare, len(calls), goals, "rows/s")
