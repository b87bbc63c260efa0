"""Enqueueing 50,000 in one call, against a bare COPY of the same rows; and a million unseen."""

from __future__ import annotations

from . import ceiling
from .process import Program
from .report import Row, most, share
from .server import Target
from .tasks import application
from .timing import compare

JOBS = 50_000
STREAMED = 1_000_000


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
        rows = compare(name, target.repeats, ours, bare, len(calls), goals, "rows/s")
    return [*rows, *_streamed(target)]


def _streamed(target: Target) -> list[Row]:
    """Measure the memory of a process that enqueues from a generator, and its rate."""
    number = target.size(STREAMED)
    target.empty()
    with Program("stream", target.url, str(number)) as program:
        ended = program.ended()
    target.empty()
    seconds = ended["at"] - program.ready["at"]
    return [
        Row(f"stream {number:,}, process memory", "MB", ended["rss"], goals=(most(100),)),
        Row("  rate", "rows/s", number / seconds),
    ]
