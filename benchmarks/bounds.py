"""Enqueueing into a queue with a `max_depth`, against one without."""

from __future__ import annotations

from soniq import SoniqSync

from .report import Goal, Row, share
from .server import Target
from .tasks import Application, application
from .timing import compare

CHUNK = 200
GOALS = (share(0.4),)


def run(target: Target) -> list[Row]:
    """Measure a queue that is far from full, and a full one that drops its oldest jobs."""
    target.empty()
    app, turns = application(target.url), target.size(5 * target.repeats)
    with app.eq.sync as eq:
        eq.queues.limit("deep", max_depth=10_000_000)
        eq.queues.limit("full", max_depth=1000, on_full="drop_oldest")
        eq.enqueue_many(app.noop, [{"i": i} for i in range(1000)], queue="full")
        rows = _against_unbounded(eq, app, turns, "far from full", "deep", GOALS)
        rows += _against_unbounded(eq, app, turns, "full, dropping one of 1,000", "full", ())
        for queue in ("deep", "full"):
            eq.queues.limit(queue, max_depth=None)
    return rows


def _against_unbounded(
    eq: SoniqSync, app: Application, turns: int, name: str, queue: str, goals: tuple[Goal, ...]
) -> list[Row]:
    def into(queue: str) -> None:
        for i in range(CHUNK):
            eq.enqueue(app.noop, i=i, queue=queue)

    return compare(
        f"enqueue, bounded, {name}", turns, lambda: into(queue), lambda: into("free"), CHUNK, goals
    )
