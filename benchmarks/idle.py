"""What a worker costs that has nothing to do."""

from __future__ import annotations

import time

from .process import Program
from .report import Row, most
from .server import Target, counted

SECONDS = 20.0


def run(target: Target) -> list[Row]:
    """Measure its processor, its statements and its memory."""
    target.empty()
    seconds = target.during(SECONDS)
    settle = seconds / 10  # it greets its database, looks round and goes to rest
    with Program("worker_process", target.url) as worker:
        time.sleep(settle)
        before = worker.usage()
        time.sleep(seconds)
        after = worker.usage()
        worker.stop()
    cpu = (after["cpu"] - before["cpu"]) / (after["at"] - before["at"]) * 100
    return [
        Row(f"idle worker, CPU over {seconds:g} s", "%", cpu, goals=(most(1),)),
        Row("idle worker, statements a second", "", _statements(target, seconds), goals=(most(1),)),
        Row("idle worker, memory", "MB", after["rss"], goals=(most(60),)),
    ]


def _statements(target: Target, seconds: float) -> float:
    """Count over a long rest and a short one: the difference has no start and no end in it."""

    def rest(length: float) -> int:
        def run() -> None:
            with Program("worker_process", target.url) as worker:
                time.sleep(length)
                worker.stop()

        counts = counted(target.url, run)
        return counts.transactions if counts.statements is None else counts.statements

    return max(0, rest(1.1 * seconds) - rest(0.1 * seconds)) / seconds
